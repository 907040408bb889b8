#!/bin/sh
# Fails where the code does not keep to its rooms.
#
#   scripts/check-layers.sh [BUILD]
#
#   rooms       a room includes itself and the rooms above it in the list ("only": of those just these, "not": all but these), by
#               paths from the root
#   headers     a room's public header is called after it (lib/ir/ir.h); any other serves the room itself, tests and scripts
#   libraries   a foreign library is included by the files named for it
#   symbols     the objects in BUILD (default: where QUAD is, else build) use what rooms define that theirs may include; of any other
#               use it is told which cycle it closes
set -uf
cd "$(dirname "$0")/.." || exit 3
build=${1:-${QUAD:+$(dirname "$QUAD")}}
build=${build:-build}

rooms='
lib/base
lib/io
lib/math
lib/draw         not lib/math
lib/kernel       not lib/draw
lib/ir           not lib/draw
lib/onnx         not lib/draw
lib/torch        not lib/draw lib/onnx
lib/engine       only lib/base lib/io lib/math lib/kernel lib/ir
lib/ort          not lib/draw lib/kernel lib/onnx lib/torch
lib/weights      not lib/draw lib/onnx lib/torch lib/ort
lib/adapter      not lib/draw lib/onnx lib/torch lib/ort
lib/network      not lib/draw lib/onnx lib/torch lib/ort
lib/tokenizer    only lib/base
lib/sampler      only lib/base lib/io lib/math
lib/model        not lib/draw lib/ort lib/tokenizer
lib/data         not lib/draw lib/ort
quant
distill
export/pass      not distill
export/file      not distill
export/runtime   not distill
export/report    not quant distill export/pass export/file export/runtime
cmd
'

# How the headers of a library begin, and an expression for the files that may include them.
libraries='
jansson.h        ^lib/base/base\.h$
xxhash.h         ^lib/base/
zlib.h           ^lib/io/zip\.c$
png.h            ^lib/io/png\.c$
jpeglib.h        ^lib/io/jpeg\.c$
webp/            ^lib/io/webp\.c$
cblas            ^lib/math/linalg\.c$
lapacke          ^lib/math/linalg\.c$
dnnl             ^lib/kernel/
oneapi           ^lib/kernel/
onnx.pb-c.h      ^lib/onnx/
torch/           ^lib/torch/shim[a-z_]*\.(cc|h)$
ATen             ^lib/torch/shim[a-z_]*\.(cc|h)$
c10/             ^lib/torch/shim[a-z_]*\.(cc|h)$
utf8proc.h       ^lib/tokenizer/text\.c$
pcre2.h          ^lib/adapter/peft\.c$
'

sources=$(find cmd lib quant distill export -name '*.[ch]' -o -name '*.cc' -o -name '*.def' | sort)
# Objects whose source has moved away stay behind in a build folder. What is generated has its source there.
objects=$(find "$build/obj" -name '*.o' 2>/dev/null | sort | while read -r object; do
	stem=${object#"$build/obj/"}
	stem=${stem%.o}
	[ -e "$stem.c" ] || [ -e "${stem%.pic}.cc" ] || [ -e "$build/$stem.c" ] && echo "$object"
done)

bad=$({
	echo "$rooms" | sed -n 's/^[a-z]/room &/p'
	echo "$libraries" | sed -n 's/^[a-zA-Z]/library &/p'
	printf 'source %s\n' $sources
	grep -nE '^[[:space:]]*#[[:space:]]*include' $sources /dev/null | sed 's/^/include /'
	[ -z "$objects" ] || nm -A -P -g $objects | sed "s|^$build/obj/|symbol |"
} | awk '
	function folder(path) { sub(/\/[^\/]*$/, "", path); return path }
	function public(room) { return room "/" substr(room, match(room, /[^\/]*$/)) ".h" }
	function wrong(place, text) { print place ": " text }

	$1 == "room" {
		rooms[++n_rooms] = $2
		for (i = 1; i <= n_rooms; i++)
			may[$2, rooms[i]] = $3 != "only" || i == n_rooms
		for (i = 4; i <= NF; i++) {
			if (!(($2, $i) in may))
				wrong($2, "\x27" $i "\x27 is no room above it in the list")
			may[$2, $i] = $3 == "only"
		}
	}

	$1 == "library" { files_of[$2] = $3 }

	$1 == "source" {
		there[$2] = 1
		if (!((folder($2), folder($2)) in may))
			wrong($2, folder($2) " is not in the list of rooms")
	}

	$1 == "include" {
		split($2, at, ":")
		place = at[1] ":" at[2]
		header = $0
		sub(/^[^#]*#[ \t]*include[ \t]*/, "", header)
		quoted = substr(header, 1, 1) == "\""
		gsub(/[<>"]/, "", header)
		sub(/[ \t].*$/, "", header)
		from = folder(at[1])
		to = folder(header)
		for (library in files_of)
			if (index(header, library) == 1 && at[1] !~ files_of[library])
				wrong(place, "\x27" header "\x27 may not be included here")
		if (header !~ /^(lib|quant|distill|export|cmd)\//) {
			if (quoted && header ~ /\//)
				wrong(place, "\x27" header "\x27 is not written from the root")
		} else if (!may[from, to])
			wrong(place, from " may not include \x27" header "\x27")
		else if (from != to && header ~ /\.h$/ && header != public(to))
			wrong(place, "\x27" header "\x27 is private to " to)
	}

	# "OBJECT: NAME TYPE ...", by type U a use, T D R B C u a definition; weak ones are C++ that is in every object that uses it.
	$1 == "symbol" {
		sub(/:$/, "", $2)
		room = $2 ~ /^gen\/onnx/ ? "lib/onnx" : folder($2)
		if (!((room, room) in may))
			next
		if ($4 ~ /^[TDRBCu]$/)
			home[$3] = room
		else if ($4 == "U") {
			object[++n_uses] = $2
			user[n_uses] = room
			used[n_uses] = $3
		}
	}

	# The shortest way from room to room by uses, told; "" when there is none.
	function way(from, to,   queue, first, last, told, i) {
		queue[last = 1] = from
		told[from] = ""
		for (first = 1; first <= last; first++) {
			from = queue[first]
			for (i = 1; i <= n_rooms; i++)
				if (((from, rooms[i]) in example) && !(rooms[i] in told)) {
					queue[++last] = rooms[i]
					told[rooms[i]] = told[from] ", " from " uses \x27" example[from, rooms[i]] "\x27 of " rooms[i]
				}
		}
		return told[to]
	}

	END {
		for (i = 1; i <= n_rooms; i++)
			if (!there[public(rooms[i])])
				wrong(rooms[i], "has no public header \x27" public(rooms[i]) "\x27")
		for (i = 1; i <= n_uses; i++)
			if (used[i] in home && home[used[i]] != user[i])
				example[user[i], home[used[i]]] = used[i]
		for (i = 1; i <= n_uses; i++)
			if (used[i] in home && !may[user[i], home[used[i]]]) {
				cycle = way(home[used[i]], user[i])
				wrong(object[i], user[i] " may not use \x27" used[i] "\x27 of " home[used[i]] (cycle == "" ? "" : "; a cycle: " substr(cycle, 3)))
			}
	}'
)
[ -z "$bad" ] && exit 0
printf '%s\n' "$bad" >&2
exit 1
