#!/bin/bash
# quad tokenize: lines in, lines out; folders; what is refused.
. "$(dirname "$0")/check.bash"
t=$work/t
mkdir "$t" "$work/pipeline" "$work/o"

# A vocabulary of the byte symbols, two merges and the special strings: "cat" is 513.
awk 'BEGIN {
	for (end = 0; end < 2; end++) {
		others = 0
		for (b = 0; b < 256; b++) {
			itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174
			printf "%s\"\\u%04x%s\": %d", n ? ", " : "{", itself ? b : 256 + others++, end ? "</w>" : "", n
			n++
		}
	}
	print ", \"ca\": 512, \"cat</w>\": 513, \"<|startoftext|>\": 514, \"<|endoftext|>\": 515}"
}' >"$t/vocab.json"
printf '#version: 0.2\nc a\nca t</w>\n' >"$t/merges.txt"
echo '{"model_max_length": 5}' >"$t/tokenizer_config.json"

lines='{"text": "cat"}
{"text": "a <|endoftext|>", "file_name": "x.png"}
{"text": ""}
{"text": "cat Cat CAT cat"}'
want='{"ids": [514, 513, 515, 515, 515], "n": 3}
{"ids": [514, 353, 515, 515, 515], "n": 4}
{"ids": [514, 515, 515, 515, 515], "n": 2}
{"ids": [514, 513, 513, 513, 515], "n": 5, "untruncated": 6}'
echo "$lines" >"$work/lines.jsonl"
expect 0 "" "$QUAD" tokenize --tokenizer "$t" "$work/lines.jsonl"
[ "$(cat "$work/out")" = "$want" ] || fault "other ids: $(cat "$work/out")"
[ ! -s "$work/err" ] || fault "speaks on stderr: $(cat "$work/err")"
"$QUAD" tokenize --tokenizer "$t" <"$work/lines.jsonl" | cmp -s - "$work/out" || fault "standard input gives other ids"
printf '{"text": "cat"}' | "$QUAD" tokenize --tokenizer "$t" >"$work/last" || fault "the last line needs no newline"
[ "$(cat "$work/last")" = "$(head -n 1 "$work/out")" ] || fault "the last line without a newline gives other ids"
expect 0 "" "$QUAD" tokenize --tokenizer "$t" /dev/null
[ ! -s "$work/out" ] || fault "no lines give lines"
cp -r "$t" "$work/pipeline/tokenizer"
"$QUAD" tokenize --tokenizer "$work/pipeline" "$work/lines.jsonl" | cmp -s - <(echo "$want") || fault "a pipeline folder gives other ids"

# A line is answered when it comes.
coproc "$QUAD" tokenize --tokenizer "$t"
conversation=$COPROC_PID # which the shell forgets once it has ended
echo '{"text": "cat"}' >&"${COPROC[1]}"
read -r -t 60 line <&"${COPROC[0]}"
[ "$line" = "$(head -n 1 <<<"$want")" ] || fault "a line is not answered before the next: '$line'"
exec {COPROC[1]}>&-
wait "$conversation" || fault "a conversation ends badly"

# Bad lines: the lines before are answered, the number and the reason are said.
bad()
{
	printf '{"text": "cat"}\n%s\n' "$2" >"$work/bad.jsonl"
	expect 3 "'$work/bad.jsonl', line 2: $1" "$QUAD" tokenize --tokenizer "$t" "$work/bad.jsonl"
	[ "$(wc -l <"$work/err")" -eq 1 ] || fault "says more than one line: $(cat "$work/err")"
	[ "$(cat "$work/out")" = "$(head -n 1 <<<"$want")" ] || fault "the line before a bad one is not answered"
}
bad "'JSON': line 1, column" '{"text": "cat"'
bad "'JSON': line 1, column" ''
bad "has no field 'text'" '{"ids": [1]}'
bad "has no field 'text'" '["cat"]'
bad "field 'text' is not a text" '{"text": 5}'
bad "'JSON': line 1, column" "$(printf '{"text": "\377"}')"

refused "cannot read '$work/none': No such file" "$QUAD" tokenize --tokenizer "$t" "$work/none"
refused "'$work/none' is no folder, needs a tokenizer's" "$QUAD" tokenize --tokenizer "$work/none"
refused "'$work/o' holds no tokenizer, needs vocab.json and merges.txt, or tokenizer.json" "$QUAD" tokenize --tokenizer "$work/o"
printf 'c a\nc a t\n' >"$work/pipeline/tokenizer/merges.txt"
refused "merges.txt': line 2: 'c a t' is not two symbols with one space between" "$QUAD" tokenize --tokenizer "$work/pipeline"
expect 2 "quad tokenize: needs --tokenizer" "$QUAD" tokenize
expect 2 "unexpected argument 'b', needs one FILE at most" "$QUAD" tokenize --tokenizer "$t" a b
if [ -w /dev/full ]; then
	"$QUAD" tokenize --tokenizer "$t" "$work/lines.jsonl" >/dev/full 2>"$work/err"
	[ $? -eq 3 ] || fault "a full disk goes unnoticed"
else
	skip "/dev/full cannot be written to"
fi
finish
