#!/bin/bash
# What a killed program leaves: nothing half-done, nothing that the next run trips over, nothing for good.
. "$(dirname "$0")/check.bash"
o=$work/o
scenes=$(dirname "$QUAD")/scenes
export OMP_WAIT_POLICY=passive
mkdir "$o"
[ -x "$scenes" ] || { echo "'$scenes' is not built"; exit 77; }
cd "$work" || exit 1

# Kills the program at its K-th rename; takes away that folders can be exchanged; halves a file once it is mapped.
cat >killer.c <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void count(void)
{
	static int n;
	const char *at = getenv("KILL_AT_RENAME");
	if (at != NULL && ++n == atoi(at))
		kill(getpid(), SIGKILL);
}
int rename(const char *from, const char *to)
{
	count();
	return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{
	count();
	if (getenv("NO_EXCHANGE") != NULL && (flags & 2)) {
		errno = EINVAL;
		return -1;
	}
	return ((int (*)(int, const char *, int, const char *, unsigned))dlsym(RTLD_NEXT, "renameat2"))(a, from, b, to, flags);
}
void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	void *data = ((void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap"))(at, bytes, prot, flags, fd, offset);
	const char *path = getenv("SHRINK");
	struct stat named, mapped;
	if (path != NULL && fd >= 0 && stat(path, &named) == 0 && fstat(fd, &mapped) == 0 && named.st_ino == mapped.st_ino &&
		truncate(path, named.st_size / 2) != 0)
		abort();
	return data;
}
C
"${CC:-cc}" -shared -fPIC -o killer.so killer.c -ldl 2>err || { echo "no compiler for what kills: $(cat err)"; exit 77; }

# kill_at K COMMAND...: true when the command was killed, false when it came to its end
kill_at()
{
	local k=$1 status
	shift
	{ KILL_AT_RENAME=$k LD_PRELOAD=$work/killer.so "$@" >out 2>err; } 2>/dev/null
	status=$?
	[ $status -eq 137 ] && return 0
	[ $status -eq 0 ] || fault "exit $status: $*
$(cat err)"
	return 1
}

# every file with its content, hidden ones too
content()
{
	(cd "$1" && find . -type f -print0 | sort -z | xargs -0 cksum)
}

cat >config.json <<'JSON'
{ "_class_name": "UNet2DConditionModel", "sample_size": 32, "in_channels": 25, "out_channels": 12, "block_out_channels": [16, 16],
  "layers_per_block": 1, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 2, "cross_attention_dim": 48, "norm_num_groups": 4 }
JSON
expect 0 "" "$QUAD" init --config config.json --seed 1 -o m
expect 0 "" "$QUAD" init --config config.json --lora 2 --seed 1 -o a.safetensors
expect 0 "" "$QUAD" init --config config.json --lora 2 --seed 2 -o b.safetensors
expect 0 "" "$scenes" --task all --count 2 --seed 1 --schedule m -o calib.safetensors
expect 0 "" "$QUAD" qss --base m --adapter a=a.safetensors --adapter b=b.safetensors --calib calib.safetensors -o profile.json
expect 0 "" "$QUAD" export --base m --profile profile.json --adapter a=a.safetensors --tokens 8 --format both -o first

# Adapters join an export, or replace those in it, all together or not at all: the next command finds the one or the other.
add=("$QUAD" export --adapter-only --base m --profile profile.json)
for how in "--adapter b=b.safetensors" "--adapter a=b.safetensors --adapter c=a.safetensors --force"; do
	cp -r first whole
	expect 0 "" "${add[@]}" $how -o whole
	content whole >whole.sums
	content first >first.sums
	rm -r whole
	k=0
	while k=$((k + 1)) && rm -rf export && cp -r first export && kill_at $k "${add[@]}" $how -o export; do
		expect 0 "adapter" "$QUAD" inspect export
		content export | grep -v "/\.\.quad-update\.[^/]*/" >sums
		if cmp -s sums first.sums; then
			cp out before
		elif cmp -s sums whole.sums; then
			touch after
		else
			fault "killed at rename $k of '$how' the export has something of both: $(diff sums whole.sums)"
		fi
		expect 0 "" "${add[@]}" $how -o export --force
		content export | grep -v "/\.\.quad-update\.[^/]*/" | cmp -s - whole.sums || fault "killed at rename $k of '$how' the same command gives something else"
	done
	[ $k -gt 6 ] && [ -e before ] && [ -e after ] || fault "$k renames, none of them matters"
	rm -rf before after
done

# A folder in the place of another one: the old or the new one is there, also where the two cannot be exchanged in one step.
model=("$QUAD" init --arch tiny --seed 1 -o o/model --force)
expect 0 "" "${model[@]}"
content o/model >whole.sums
for how in "" 1; do
	[ -n "$how" ] && export NO_EXCHANGE=1
	k=0
	while k=$((k + 1)) && rm -rf o && mkdir o && "$QUAD" init --arch tiny -o o/model >/dev/null && kill_at $k "${model[@]}"; do
		expect 3 "'o/model' already exists" "$QUAD" init --arch tiny -o o/model
		[ -s o/model/unet/diffusion_pytorch_model.safetensors ] || fault "killed at rename $k the model is gone"
		expect 0 "" "${model[@]}"
		content o/model | cmp -s - whole.sums || fault "killed at rename $k the same command gives something else"
		[ "$(ls -A o)" = model ] || fault "killed at rename $k it leaves $(ls -A o) for good"
	done
	[ $k -gt 5 ] || fault "$k renames"
done
unset NO_EXCHANGE

# An input that becomes shorter under the program is one line.
for file in m/unet/diffusion_pytorch_model.safetensors a.safetensors; do
	rm -rf shrunk o
	mkdir shrunk o
	cp -r m a.safetensors calib.safetensors shrunk
	SHRINK=$work/shrunk/$file LD_PRELOAD=$work/killer.so refused "cannot read 'shrunk/" \
		"$QUAD" qss --base shrunk/m --adapter a=shrunk/a.safetensors --calib shrunk/calib.safetensors -o o/profile.json
	grep -q "it became shorter while it was being read" err || fault "$(cat err)"
done
finish
