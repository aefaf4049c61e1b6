"""`python -m pipeline` is the command `lowland`; a job of `lowland run` may be done by its server of forks."""

import sys

from pipeline.warm import hand_over

if __name__ == "__main__":
    hand_over(sys.argv[1:])
    from pipeline.cli import ending, main

    if sys.argv[1:2] == ["stage"]:
        ending.prepare()
        ending.do(main, sys.argv[1:])
    else:
        main()
