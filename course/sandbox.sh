#!/usr/bin/env bash
# Run a command in a folder, with limits and without output: sandbox.sh bwrap|"" FOLDER PREFIX BASE COMMAND ...
# bwrap isolates it. It has no network and sees no other processes. It can write in FOLDER alone, and read the system's
# programs and libraries, and Python in PREFIX and BASE. When it ends, all that it started ends.
bwrap=$1 folder=$2 prefix=$3 base=$4
shift 4
cd "$folder"
exec < /dev/null > /dev/null 2>&1
ulimit -d $((4 * 1024 * 1024))  # KiB of memory, of each process
ulimit -f $((64 * 1024))        # KiB of a file
ulimit -t 45                    # seconds of processor time, of each process
run=(env -i PATH="$PATH" HOME="$folder" TMPDIR="$folder" OMP_NUM_THREADS=1)
if [ -z "$bwrap" ]; then
  exec "${run[@]}" "$@"
fi
readable=()
for path in /usr /lib /lib64 /etc/ld.so.cache "$base" "$prefix"; do
  readable+=(--ro-bind-try "$path" "$path")
done
# The number of processes is limited inside: outside, all that the user runs would count.
exec "${run[@]}" bwrap --unshare-all --die-with-parent --new-session --proc /proc --dev /dev "${readable[@]}" \
  --bind "$folder" "$folder" --remount-ro /dev --remount-ro / bash -c 'ulimit -u 200; exec "$@"' bash "$@"
