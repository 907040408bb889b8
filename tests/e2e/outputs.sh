#!/bin/bash
# What outputs must not do: write over what somebody else put there, or over what the command reads.
. "$(dirname "$0")/check.bash"
o=$work/o
mkdir "$o"
cd "$work" || exit 1

# --force replaces what this program wrote, and an empty folder, but nobody's home.
mkdir o/home o/home/sub o/empty
echo mine >o/home/sub/letter
refused "'o/home' holds 'sub/letter', which this program did not write" "$QUAD" init --arch tiny -o o/home --force
expect 0 "" "$QUAD" init --arch tiny -o o/empty --force
expect 0 "" "$QUAD" init --arch tiny -o o/m
cp o/home/sub/letter o/m/unet/
refused "'o/m' holds 'unet/letter'" "$QUAD" init --arch tiny -o o/m --force
rm o/m/unet/letter
expect 0 "" "$QUAD" init --arch tiny -o o/m --force

# No output is an input, holds one or lies in one, whatever --force says.
"$QUAD" init --arch tiny --lora 2 -o o/a.safetensors >/dev/null || fault "no adapter"
ln -s m o/link
echo '{}' >o/file
while read -r says output command; do
	case $says in
	itself) says="'$output' is an input" ;;
	*) says="the output '$output' ${says//-/ } the input '" ;;
	esac
	refused "$says" "$QUAD" $command -o "$output" --force
done <<'CASES'
is o/m export --base o/link --profile o/file
is o/link train --base o/m --data o/file
itself o/m/unet train --base o/m/unet --data o/file
lies-in o/m/vae train --base o/m --data o/file
holds o train --base o/m --data o/file
holds o export --base o/m --profile o/file --adapter-only --adapter o/a.safetensors
itself o/m/unet/config.json init --config o/m/unet/config.json
lies-in o/m/new.json qss --base o/m --adapter o/a.safetensors --calib o/file
itself o/a.safetensors qss --base o/m --adapter x=o/file+o/a.safetensors@2 --calib o/file
itself o/file qss --base o/m --adapter o/a.safetensors --calib o/file
itself o/file distill --base o/m --adapter o/a.safetensors --profile o/file --data o/m
itself o/file distill --base o/m --adapter o/a.safetensors --profile o/a.safetensors --data o/file
itself o/a.safetensors train --base o/m --init-adapter o/a.safetensors --data o/file
itself o/file train --base o/m --val o/file --data o/a.safetensors
itself o/file calib --base o/m --data o/file
lies-in o/home/new calib --base o/m --data o/home
itself o/file run --base o/m --inputs o/file
itself o/file run --base o/m --inputs o/a.safetensors --scheduler olss:o/file
itself o/file olss --base o/m --inputs o/file
itself o/file eval --base o/m --inputs o/file
CASES
refused "'o/file' is an input, it cannot be the output too" "$QUAD" run --base o/m --inputs o/file --trace o/file -o o/new
refused "'o/file' already exists" "$QUAD" run --base o/m --inputs o/a.safetensors --trace o/file -o o/new
refused "'o/file' is an input, it cannot be the output too" "$QUAD" report --task t --reference o/a.safetensors --column c=o/file --sheet o/file --force
[ "$(cat o/file o/home/sub/letter)" = "{}
mine" ] || fault "an input was written over"
expect 0 "1,466,500 in 324 tensors" "$QUAD" inspect o/m

# Outputs through links write to what these lead to.
mkdir o/there
ln -s there/m o/to-model
ln -s there/a.safetensors o/to-adapter
expect 0 "" "$QUAD" init --arch tiny -o o/to-model
expect 0 "" "$QUAD" init --arch tiny --seed 1 -o o/to-model --force
expect 0 "" "$QUAD" init --arch tiny --lora 2 -o o/to-adapter
expect 0 "" "$QUAD" init --arch tiny --lora 3 -o o/to-adapter --force
[ -L o/to-model ] && [ -L o/to-adapter ] && [ -d o/there/m ] && [ -f o/there/a.safetensors ] || fault "a link is replaced"
[ "$(ls -A o/there | wc -l)" -eq 2 ] || fault "$(ls -A o/there)"

# A file that may not grow is one line, and nothing stays.
limited() # COMMAND...: under a limit of 100 KB a file
{
	(ulimit -f 100 && exec "$@")
}
refused "File too large" limited "$QUAD" init --arch tiny -o o/large
refused "File too large" limited "$QUAD" init --arch tiny --lora 64 -o o/large

# "-" names nothing.
for command in "init --arch tiny" "qss --base o/m --adapter o/a.safetensors --calib o/file" "eval --base o/m --inputs o/file" \
	"calib --base o/m --data o/file" "export --base o/m --profile o/file" "run --base o/m --inputs o/file" \
	"olss --base o/m --inputs o/file" "distill --base o/m --adapter o/a.safetensors --profile o/file --data o/file" \
	"train --base o/m --data o/file"; do
	expect 2 "'-' names no output: /dev/stdout is standard output, './-' a file of that name" "$QUAD" $command -o -
done
expect 2 "'-' names no output" "$QUAD" report --task t --reference o/file --sheet -
expect 2 "'-' names no output" "$QUAD" run --base o/m --inputs o/file --trace - -o o/new
[ ! -e - ] || fault "there is a file '-'"
expect 0 "" "$QUAD" init --arch tiny --lora 3 -o /dev/stdout
cmp -s out o/there/a.safetensors || fault "standard output gets something else than a file"
finish
