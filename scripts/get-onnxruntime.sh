#!/bin/sh
# Fetches ONNX Runtime's library into build/ort (or the folder given) from the npm package onnxruntime-node, without running anything of it.
#
#   scripts/get-onnxruntime.sh [FOLDER]      does nothing when the library is there; prints its path
#
# ORT_VERSION chooses another release (1.20 or later). Exit 3, with one line that says why, when it cannot be had.
set -u
cd "$(dirname "$0")/.." || exit 3

folder=${1:-build/ort}
version=${ORT_VERSION:-1.30.0}
library=$folder/libonnxruntime.so.1

fail()
{
	echo "no ONNX Runtime: $*" >&2
	exit 3
}

if [ -s "$library" ]; then
	printf '%s\n' "$library"
	exit 0
fi
case $(uname -sm) in
"Linux x86_64") platform=linux/x64 ;;
"Linux aarch64") platform=linux/arm64 ;;
*) fail "npm's onnxruntime-node has no library for $(uname -sm)" ;;
esac
command -v npm >/dev/null 2>&1 || fail "npm is not installed, which its library comes through"
mkdir -p "$folder" || fail "cannot make '$folder'"
scratch=$(mktemp -d "$folder/tmp.XXXXXX") || fail "cannot make a folder in '$folder'"
trap 'rm -rf "$scratch"' EXIT
trap 'exit 3' INT TERM

npm pack --loglevel=error --ignore-scripts --pack-destination "$scratch" "onnxruntime-node@$version" >"$scratch/log" 2>&1 ||
	fail "npm cannot fetch onnxruntime-node@$version: $(grep -m 1 . "$scratch/log")"
inside=$(tar -tzf "$scratch"/*.tgz 2>/dev/null | grep "/$platform/libonnxruntime\.so" | head -n 1)
[ -n "$inside" ] || fail "onnxruntime-node $version holds no libonnxruntime.so for $platform"
tar -xzf "$scratch"/*.tgz -C "$scratch" "$inside" || fail "cannot unpack onnxruntime-node $version"
mv "$scratch/$inside" "$library" || fail "cannot write '$library'"
printf '%s\n' "$library"
