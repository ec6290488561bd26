#!/bin/sh
# The first program of Lamina's Linux guest: checks that it has what it needs, gives the verdict on the console,
# and then offers a shell there for as long as the guest runs.
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

problem=
memory=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
[ "$memory" -gt 16384 ] || problem="only $memory kB of memory"
[ "$(uname -s)" = Linux ] || problem="uname says $(uname -s)"
grep -q '^flags.* hypervisor' /proc/cpuinfo || problem="no hypervisor bit in CPUID"
dd if=/dev/zero of=/tmp/block bs=64k count=16 2>/dev/null && rm /tmp/block || problem="cannot write 1 MiB to /tmp"

# Where the VM has a memory balloon (a virtio device in memory, which ACPI calls LNRO0005): its driver.
if [ -e /sys/bus/acpi/devices/LNRO0005:00 ]; then
    for module in $(cat /lib/modules/order); do
        insmod "/lib/modules/$module.ko" || problem="cannot load the module $module"
    done
fi

echo "$(uname -sr), $(grep -c ^processor /proc/cpuinfo) CPU, $memory kB of memory"
if [ -z "$problem" ]; then
    echo "verdict: pass linux shell"
else
    echo "verdict: fail linux: $problem"
fi

export HOME=/root PS1='linux# ' TERM=vt100
cd /root
while :; do
    setsid sh -c 'exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
done
