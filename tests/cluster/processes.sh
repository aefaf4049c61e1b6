# Which daemons run: a file each in $dir/pid that holds "pid start-time", so that a pid given anew is not taken for ours.
# Sourced by slurm-up and slurm-down.

started_at() { # the kernel's start time of a process that runs; a zombie does not
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    [ "$1" != Z ] && echo "${20}"
}
ours() { # ours PID START
    [ "$(started_at "$1" || true)" = "$2" ]
}
alive() { # alive NAME
    local pid born
    read -r pid born 2>/dev/null <"$dir/pid/$1" || return 1
    ours "$pid" "$born"
}
