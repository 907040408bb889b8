#!/bin/sh
# Fails when an #include points the wrong way. lib <- quant <- distill; lib, quant <- export; cmd sees all. Inside lib:
# base <- io <- math, ir <- kernel <- model, torch, ort. Each foreign library enters through the files named here.
set -u
cd "$(dirname "$0")/.." || exit 3

bad=$(
	grep -nE '^[ \t]*#[ \t]*include' $(find cmd lib quant distill export -name '*.[ch]' -o -name '*.cc' 2>/dev/null | sort) /dev/null |
	awk '
	BEGIN {
		allow["lib/base"] = "lib/base"
		allow["lib/io"] = allow["lib/base"] " lib/io"
		allow["lib/math"] = allow["lib/io"] " lib/math"
		allow["lib/ir"] = allow["lib/io"] " lib/math lib/kernel lib/ir"
		allow["lib/onnx"] = allow["lib/ir"] " lib/onnx"
		allow["lib/tokenizer"] = allow["lib/base"] " lib/tokenizer"
		allow["lib/sampler"] = allow["lib/io"] " lib/math lib/sampler"
		allow["lib/draw"] = allow["lib/io"] " lib/draw"
		allow["lib/kernel"] = allow["lib/io"] " lib/math lib/kernel"
		allow["lib/weights"] = allow["lib/ir"] " lib/weights"
		allow["lib/adapter"] = allow["lib/weights"] " lib/adapter"
		allow["lib/network"] = allow["lib/adapter"] " lib/network"
		allow["lib/model"] = allow["lib/network"] " lib/onnx lib/torch lib/model"
		allow["lib/data"] = allow["lib/model"] " lib/sampler lib/tokenizer lib/data"
		allow["lib/torch"] = allow["lib/io"] " lib/math lib/ir lib/kernel lib/torch"
		allow["lib/ort"] = allow["lib/io"] " lib/math lib/ir lib/ort"
		every_lib = "lib/data lib/weights lib/adapter lib/network lib/sampler lib/tokenizer lib/onnx lib/base lib/io lib/draw lib/math lib/ir lib/kernel lib/model lib/torch lib/ort"
		allow["quant"] = every_lib " quant"
		allow["distill"] = every_lib " quant distill"
		allow["export/pass"] = every_lib " quant export/pass"
		allow["export/file"] = allow["export/pass"] " export/file"
		allow["export/runtime"] = allow["export/file"] " export/runtime"
		allow["export/report"] = every_lib " export/report"
		allow["cmd"] = every_lib " quant distill export/pass export/file export/runtime export/report cmd"
		foreign["dnnl"] = "^lib/kernel/"
		foreign["oneapi"] = "^lib/kernel/"
		foreign["cblas"] = "^lib/math/linalg\\.c$"
		foreign["lapacke"] = "^lib/math/linalg\\.c$"
		foreign["png.h"] = "^lib/io/png\\.c$"
		foreign["jpeglib.h"] = "^lib/io/jpeg\\.c$"
		foreign["webp/"] = "^lib/io/webp\\.c$"
		foreign["zlib.h"] = "^lib/io/zip\\.c$"
		foreign["torch/"] = "^lib/torch/shim[a-z_]*\\.(cc|h)$"
		foreign["ATen"] = "^lib/torch/shim[a-z_]*\\.(cc|h)$"
		foreign["c10/"] = "^lib/torch/shim[a-z_]*\\.(cc|h)$"
		foreign["onnx.pb-c.h"] = "^lib/onnx/"
		foreign["xxhash.h"] = "^lib/base/"
		foreign["utf8proc.h"] = "^lib/tokenizer/text\\.c$"
	}
	function folder(path,  parts, n) {
		n = split(path, parts, "/")
		return (parts[1] == "lib" || parts[1] == "export") && n > 2 ? parts[1] "/" parts[2] : parts[1]
	}
	function has(list, word) { return index(" " list " ", " " word " ") > 0 }
	{
		split($0, at, ":")
		file = at[1]
		line = $0
		sub(/^[^:]*:[0-9]*:[ \t]*#[ \t]*include[ \t]*/, "", line)
		quoted = substr(line, 1, 1) == "\""
		gsub(/[<>"]/, "", line)
		sub(/[ \t].*$/, "", line)
		from = folder(file)
		to = folder(line)
		for (name in foreign)
			if (index(line, name) == 1 && file !~ foreign[name])
				print file ":" at[2] ": \x27" line "\x27 may not be included here"
		if (quoted && line ~ /\// && line !~ /^(lib|quant|distill|export|cmd)\//)
			print file ":" at[2] ": \x27" line "\x27 is not written from the root"
		if (line ~ /^(lib|quant|distill|export|cmd)\// && !has(allow[from], to))
			print file ":" at[2] ": " from " may not include \x27" line "\x27"
	}'
)
[ -z "$bad" ] && exit 0
printf '%s\n' "$bad" >&2
exit 1
