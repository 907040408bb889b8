# Sourced by the scripts of this folder: a scratch folder, and commands whose exit code and messages are checked.
set -u
: "${QUAD:=build/quad}" "${QUAD_GOLDEN:=../shared/golden}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

fault()
{
	echo "$1" >&2
	failures=$((failures + 1))
}

# expect CODE TEXT COMMAND...: the command ends with CODE and TEXT stands in what it says ("" : anything). Its output is in $work/out, .err.
expect()
{
	local code=$1 text=$2 status
	shift 2
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

# needs_golden: exits 77 where the golden data is not there.
needs_golden()
{
	[ -d "$QUAD_GOLDEN/tiny15" ] && return
	echo "golden data is not there"
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

finish()
{
	[ $failures -eq 0 ] || exit 1
	exit 0
}
