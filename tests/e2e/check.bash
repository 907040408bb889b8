# Sourced by the scripts of this folder: a scratch folder, and commands whose exit code and messages are checked. What a machine cannot
# try is said with `skip`, never passed over in silence.
set -u
# Absolute: some scripts work inside their scratch folder.
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
QUAD=$(realpath "${QUAD:-$root/build/quad}") QUAD_GOLDEN=$(realpath -m "${QUAD_GOLDEN:-$root/../shared/golden}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fault()
{
	echo "$1" >&2
	failures=$((failures + 1))
}

# expect CODE TEXT COMMAND...: the command ends with CODE and TEXT stands in what it says ("": anything, of a command that succeeds).
# Its output is in $work/out, .err.
expect()
{
	local code=$1 text=$2 status
	shift 2
	[ -n "$text" ] || [ "$code" -eq 0 ] || fault "no text is given that a failure has to say: $*"
	"$@" >"$work/out" 2>"$work/err"
	status=$?
	[ $status -eq "$code" ] || fault "exit $status instead of $code: $*
$(cat "$work/err")"
	[ -z "$text" ] || grep -qF -e "$text" "$work/out" "$work/err" || fault "does not say '$text': $*
$(cat "$work/out" "$work/err")"
}

# refused TEXT COMMAND...: exit 3, one line on stderr beside warnings, nothing on stdout, nothing new in the scratch folder.
refused()
{
	local before after
	before=$(ls -A "$work/o" 2>/dev/null)
	expect 3 "$@"
	[ "$(grep -vc '^quad: warning: ' "$work/err")" -eq 1 ] || fault "says more than one line: $*
$(cat "$work/err")"
	[ ! -s "$work/out" ] || fault "prints although it fails: $*"
	after=$(ls -A "$work/o" 2>/dev/null)
	[ "$before" = "$after" ] || fault "leaves '$after' behind: $*"
}

# tensors FILE...: what safetensors files hold beside their header, which says what each was made from.
tensors()
{
	local file
	for file; do
		tail -c +$(($(od -An -tu8 -N8 "$file") + 9)) "$file"
	done
}

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

# skip REASON: something of this script cannot be tried here; tests/run.sh counts it.
skip()
{
	echo "# SKIP $1"
}

# golden NAME: whether that part of the golden data is there; says that it is skipped where not.
golden()
{
	[ -e "$QUAD_GOLDEN/$1" ] && return
	skip "golden data '$1' is not there"
	return 1
}

# needs_scenes: the program that draws the example's data, in $scenes; exits 77 where it is not built.
needs_scenes()
{
	scenes=$(dirname "$QUAD")/scenes
	[ -x "$scenes" ] && return
	echo "'$scenes' is not built"
	exit 77
}

# small_config FILE: the configuration of a UNet too small to draw anything, conditioned like the example.
small_config()
{
	cat >"$1" <<'JSON'
{ "_class_name": "UNet2DConditionModel", "sample_size": 32, "in_channels": 25, "out_channels": 12, "block_out_channels": [16, 16],
  "layers_per_block": 1, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
  "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 2, "cross_attention_dim": 48, "norm_num_groups": 4 }
JSON
}

# byte_tokenizer DIR LENGTH: a tokenizer of the 512 byte symbols of GPT-2's table and the two special strings.
byte_tokenizer()
{
	mkdir "$1"
	LC_ALL=C awk 'BEGIN {
		printf "{"
		for (end = 0; end < 2; end++)
			for (b = n = 0; b < 256; b++) {
				self = b >= 33 && b <= 126 || b >= 161 && b <= 172 || b >= 174
				point = self ? b : 256 + n++
				text = point < 128 ? sprintf("%c", point) : sprintf("%c%c", 192 + int(point / 64), 128 + point % 64)
				if (text == "\"" || text == "\\")
					text = "\\" text
				printf "\"%s%s\": %d, ", text, end ? "</w>" : "", id++
			}
		printf "\"<|startoftext|>\": 512, \"<|endoftext|>\": 513}"
	}' >"$1/vocab.json"
	echo "#version: 0.2" >"$1/merges.txt"
	echo "{\"model_max_length\": $2}" >"$1/tokenizer_config.json"
}

finish()
{
	[ $failures -eq 0 ] || exit 1
	exit 0
}
