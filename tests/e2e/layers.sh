#!/bin/bash
# scripts/check-layers.sh on a copy of the sources: nothing is wrong with it as it is, and everything planted in it is told.
. "$(dirname "$0")/check.bash"
tree=$work/tree
mkdir "$tree"
cp -r cmd lib quant distill export scripts "$tree"
check=("$tree/scripts/check-layers.sh" build)

# planted FILE LINE TEXT: with LINE in FILE the check says TEXT.
planted()
{
	local file=$tree/$1
	[ ! -e "$file" ] || cp "$file" "$work/kept"
	mkdir -p "$(dirname "$file")"
	echo "$2" >>"$file"
	expect 1 "$3" "${check[@]}"
	rm "$file"
	[ ! -e "$work/kept" ] || mv "$work/kept" "$file"
}

# object NAME LINE: a source file with its object.
object()
{
	mkdir -p "$tree/build/obj/$(dirname "$1")"
	echo "$2" >"$tree/$1.c"
	${CC:-cc} -c -o "$tree/build/obj/$1.o" "$tree/$1.c"
}

expect 0 "" "${check[@]}"

planted lib/io/npy.c '#include "lib/ir/ir.h"' "lib/io may not include 'lib/ir/ir.h'"
planted lib/tokenizer/text.c '#include "lib/io/io.h"' "lib/tokenizer may not include 'lib/io/io.h'"
planted lib/weights/weights.h '#include "lib/onnx/onnx.h"' "lib/weights may not include 'lib/onnx/onnx.h'"
planted quant/qss.c '#	include "distill/distill.h"' "quant may not include 'distill/distill.h'"
planted export/pass/qdq.c '#include "export/file/file.h"' "export/pass may not include 'export/file/file.h'"
planted lib/model/net.c '#include "lib/network/layers.h"' "'lib/network/layers.h' is private to lib/network"
planted cmd/run.c '#include "quant/internal.h"' "'quant/internal.h' is private to quant"
planted lib/ir/fold.c '#include "ir/ir.h"' "'ir/ir.h' is not written from the root"
planted lib/data/dataset.c '#include <zlib.h>' "'zlib.h' may not be included here"
planted lib/novel/novel.c '' "lib/novel is not in the list of rooms"
mv "$tree/lib/ort/ort.h" "$work/kept"
expect 1 "lib/ort: has no public header 'lib/ort/ort.h'" "${check[@]}"
mv "$work/kept" "$tree/lib/ort/ort.h"

# Uses that no #include shows. The first two are in order.
object lib/base/planted 'void planted_base(void) {}'
object lib/io/planted 'void planted_base(void), planted_io(void); void planted_io(void) { planted_base(); }'
expect 0 "" "${check[@]}"
object quant/planted 'void planted_quant(void) {}'
object lib/data/planted 'void planted_quant(void), planted_data(void); void planted_data(void) { planted_quant(); }'
expect 1 "lib/data/planted.o: lib/data may not use 'planted_quant' of quant" "${check[@]}"
rm "$tree/lib/data/planted.c"
expect 0 "" "${check[@]}"
object lib/ir/planted 'void planted_io(void), planted_ir(void); void planted_ir(void) { planted_io(); }'
object lib/base/planted 'void planted_base(void), planted_ir(void); void planted_base(void) { planted_ir(); }'
expect 1 "lib/base may not use 'planted_ir' of lib/ir; a cycle: lib/ir uses 'planted_io' of lib/io, lib/io uses 'planted_base' of lib/base" \
	"${check[@]}"
finish
