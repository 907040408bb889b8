# For the scripts beside it: what they measure with. An SD1.5 UNet of random weights (3.4 GB), with an adapter of rank 16 for its
# transformers and a profile where they are wanted, in a temporary folder. Options of all: --model DIR measures that model instead,
# --runs N takes the median of N (5). Leaves `model`, `runs`, `bench` and, after `make_profile`, `profile` and `adapter`.
model='' runs=5
while [ $# -gt 0 ]; do
	case $1 in
	--model) model=${2:?--model needs a folder}; shift 2 ;;
	--runs) runs=${2:?--runs needs a number}; shift 2 ;;
	*) echo "bench.sh ${0##*/}: unknown option '$1'" >&2; exit 2 ;;
	esac
done
build=$(dirname "${QUAD:-build/quad}")
make --no-print-directory BUILD="$build" -j"$(nproc)" "$build/quad" "$build/bench-engine" >&2
bench=$build/bench-engine
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "$model" ]; then
	model=$folder/sd15
	"$build/quad" init --arch sd15 -o "$model" >&2
fi
export OMP_WAIT_POLICY=passive

# Ranges come from one sample of noise at 32 x 32: what is timed does not depend on them.
make_profile()
{
	profile=$folder/profile.json adapter=$folder/adapter.safetensors
	"$build/quad" init --arch sd15 --lora 16 --seed 3 -o "$adapter" >&2
	"$bench" noise "$folder/noise.safetensors" "$model"
	"$build/quad" qss --base "$model" --adapter "a=$adapter" --calib "$folder/noise.safetensors" -o "$profile" >&2
}

# picture NAME LIMIT: from two files of "name value", ours and libtorch's (may be empty), one table; LIMIT is an awk expression of the
# first's names as v["name"], in seconds.
picture()
{
	awk -v what="$1" "
	FNR == NR { v[\$1] = \$2; next }
	{ theirs[\$1] = \$2 }
	END {
		limit = $2
		printf \"rates         float32 %.0f GFLOP/s, bfloat16 %.0f, 8-bit codes %.0f, copy %.1f GB/s, %d threads\n\", v[\"best\"], \\
			v[\"bfloat16\"], v[\"integer\"], v[\"copy\"], v[\"threads\"]
		printf \"limit         %.3f s for %.1f GFLOP of products and %.1f of attention\n\", limit, v[\"products\"], v[\"attention\"]
		if (\"fastest\" in theirs)
			printf \"libtorch      %.3f s, %.2f times the limit, %d MiB at most\n\", theirs[\"fastest\"], \\
				theirs[\"fastest\"] / limit, theirs[\"peak\"]
		printf \"first run     %.3f s\n\", v[\"first\"]
		printf \"%-13s %.3f s (median %.3f s, %.2f times the limit)\n\", what, v[\"fastest\"], v[\"median\"], v[\"median\"] / limit
		printf \"peak memory   %d MiB, packed weights %d MiB\n\", v[\"peak\"], v[\"packed\"]
		printf \"ratio         %.2f\n\", v[\"median\"] / limit
	}" "$folder/ours" "$folder/theirs"
}
