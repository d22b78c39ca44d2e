#!/usr/bin/env bash
# Run a command with limits: sandbox.sh FOLDER PREFIX BASE COMMAND ... With ISOLATED=1, bwrap keeps it in FOLDER, the one
# place where it can write. It can read the system's programs and libraries, and Python in the folders PREFIX and BASE.
# It has no network and sees no other processes. When it ends, everything that it started ends.
folder=$1 prefix=$2 base=$3
shift 3
ulimit -d $((4 * 1024 * 1024))  # KiB of memory, of one process
ulimit -f $((64 * 1024))        # KiB of a file
ulimit -t 25                    # seconds of processor time, of one process
if [ -z "$ISOLATED" ]; then
  exec "$@"
fi
system=()
for path in /usr /lib /lib64 /etc/ld.so.cache "$base" "$prefix"; do
  system+=(--ro-bind-try "$path" "$path")
done
# The number of processes is limited inside. Outside, the limit would count all that the user runs.
exec bwrap --unshare-all --die-with-parent --new-session --proc /proc --dev /dev "${system[@]}" \
  --bind "$folder" "$folder" --remount-ro /dev --remount-ro / bash -c 'ulimit -u 64; exec "$@"' bash "$@"
