#!/bin/sh
# The Debian packages that building and testing need.
#
#   scripts/install-deps.sh                     installs what is missing (through sudo where the user is not root)
#   scripts/install-deps.sh --check-or-install  the same, silent when nothing is missing
#   scripts/install-deps.sh --check             only looks
#   scripts/install-deps.sh --list              prints the names
#
# Exit 3, with one line that names the missing packages, when they cannot be installed.
set -u

packages="gcc g++ make libtorch-dev libdnnl-dev libprotobuf-c-dev protobuf-c-compiler libonnx-dev libopenblas-dev libpng-dev
libjansson-dev libcmocka-dev libxxhash-dev libjpeg62-turbo-dev libwebp-dev zlib1g-dev libutf8proc-dev libpcre2-dev"

if [ "${1:-}" = --list ]; then
	# shellcheck disable=SC2086
	printf '%s\n' $packages
	exit 0
fi
if ! command -v dpkg-query >/dev/null 2>&1; then
	# Another system: its packages have other names, so the compiler is left to say what it misses.
	exit 0
fi

missing=
for package in $packages; do
	case $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) in
	"install ok installed") ;;
	*) missing="$missing $package" ;;
	esac
done
[ -z "$missing" ] && exit 0

give_up()
{
	echo "missing packages (install them with 'apt-get install --no-install-recommends'):$missing" >&2
	exit 3
}

[ "${1:-}" = --check ] && give_up
command -v apt-get >/dev/null 2>&1 || give_up
as_root=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null 2>&1 || give_up
	# Without a terminal nobody can type a password.
	if [ -t 0 ]; then as_root=sudo; else as_root='sudo -n'; fi
	$as_root true 2>/dev/null || give_up
fi

echo "installing:$missing"
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 && exit 0
# The package lists may be missing or old.
$as_root apt-get update -q >/dev/null 2>&1
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null || give_up
