#!/bin/bash
# What starting costs: libtorch is loaded by commands that execute a graph, when they do, and by no others.
. "$(dirname "$0")/check.bash"

# loads yes|no COMMAND...: whether the command loads libtorch
loads()
{
	local want=$1 found=no
	shift
	LD_DEBUG=files LD_DEBUG_OUTPUT=$work/files "$@" >/dev/null 2>&1
	grep -q "libtorch[a-z_]*\.so" "$work"/files.* && found=yes
	rm -f "$work"/files.*
	[ $found = "$want" ] || fault "loads libtorch: $found, needs $want: $*"
}

expect 0 "" "$QUAD" init --arch tiny -o "$work/model"
loads no "$QUAD" --help
loads no "$QUAD" init --arch tiny -o "$work/again"
loads no "$QUAD" inspect "$work/model"
loads no "$QUAD" eval --help
loads no "$QUAD" eval --base "$work/nothing" --inputs "$work/nothing"
loads yes "$QUAD" --version

# The program finds its library beside itself or in ../lib/quad, and says so when it is in neither.
library=$(dirname "$(realpath "$QUAD")")/libquad-torch.so
[ -f "$library" ] || library=$(dirname "$(realpath "$QUAD")")/../lib/quad/libquad-torch.so
mkdir -p "$work/p/bin" "$work/p/lib/quad"
cp "$QUAD" "$work/p/bin/quad"
loads no "$work/p/bin/quad" --version
expect 3 "cannot load the library that executes graphs: libquad-torch.so" \
	"$work/p/bin/quad" train --device cpu --base "$work/model" --data "$work/model" -o "$work/out"
ln "$library" "$work/p/lib/quad/libquad-torch.so" 2>/dev/null || cp "$library" "$work/p/lib/quad/"
loads yes "$work/p/bin/quad" --version

# Where memory for threads is short the program ends all the same.
for limit in 100000 150000 180000; do
	(
		ulimit -v $limit
		expect 0 "quad " timeout 20 "$QUAD" --version
		expect 0 "Usage: quad COMMAND" timeout 20 "$QUAD" --help
		finish
	) || fault "within $limit kB"
done

# Threads sleep while they wait, unless the caller wants them awake.
waits()
{
	local want=$1 found
	shift
	found=$(env -u OMP_WAIT_POLICY OMP_DISPLAY_ENV=verbose "$@" "$QUAD" --help 2>&1 >/dev/null |
		sed -n "s/.*GOMP_SPINCOUNT = '\\(.*\\)'/\\1/p" | tail -n 1)
	[ "$found" = "$want" ] || fault "spins '$found' times, needs $want: $*"
}
waits 0
waits 17 GOMP_SPINCOUNT=17
waits 0 OMP_WAIT_POLICY=passive
waits 30000000000 OMP_WAIT_POLICY=active

finish
