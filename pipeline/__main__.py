"""`python -m pipeline` is the command `lowland`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
