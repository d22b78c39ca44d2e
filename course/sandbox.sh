#!/usr/bin/env bash
# Run a command in a folder, with limits: sandbox.sh bwrap|student|"" FOLDER PREFIX BASE COMMAND ...
# The output is what it writes to file descriptor 3; bwrap itself closes it.
# bwrap isolates it. It has no network and sees no other processes. It can read the system's programs and libraries,
# Python in PREFIX and BASE, and the files of FOLDER. What it writes stays in memory, 64 MiB in total, except for its
# output. When it ends, all that it started ends. As root, `student` runs it as the user of this name, without bwrap.
isolated=$1 folder=$2 prefix=$3 base=$4
shift 4
cd "$folder"
exec 3>&1 > /dev/null 2>&1
ulimit -d $((4 * 1024 * 1024))  # KiB of memory, of each process
ulimit -f $((4 * 1024))         # KiB of a file
ulimit -t 45                    # seconds of processor time, of each process
run=(env -i PATH="$PATH" HOME="$folder" TMPDIR="$folder" OMP_NUM_THREADS=1)
if [ -z "$isolated" ]; then
  exec "${run[@]}" "$@"
fi
if [ "$isolated" = student ]; then
  chmod -R a+rX "$folder"
  chmod a+w,+t "$folder"
  exec "${run[@]}" setpriv --reuid student --regid student --clear-groups --no-new-privs "$@"
fi
places=()
for path in /usr /lib /lib64 /etc/ld.so.cache "$base" "$prefix"; do
  places+=(--ro-bind-try "$path" "$path")
done
if bwrap --help | grep -q -e --size; then  # since 0.7; an older one allows half of the memory
  places+=(--size $((64 * 1024 * 1024)))
fi
places+=(--tmpfs "$folder")
for path in "$folder"/*; do
  places+=(--ro-bind "$path" "$path")
done
# The number of processes is limited inside: outside, all that the user runs would count. Process 1 is the command
# itself, because what it starts can neither stop nor kill process 1.
exec "${run[@]}" bwrap --unshare-all --as-pid-1 --cap-drop ALL --die-with-parent --new-session --proc /proc --dev /dev \
  "${places[@]}" --remount-ro /dev --remount-ro / bash -c 'ulimit -u 200; exec "$@"' bash "$@"
