#!/bin/bash
# What quad says of itself: the examples of every command, run as the story they are; man pages without warnings; completion that
# knows every option; all of it installed.
. "$(dirname "$0")/check.bash"
cd "$work" || exit 1
commands=$("$QUAD" --help | sed -n 's/^  \([a-z]*\) .*/\1/p')

# ---- man pages and completion ----
"$QUAD" help bash >quad.bash
"$QUAD" help zsh >_quad
bash -n quad.bash || fault "completion for bash is no bash"
if command -v zsh >/dev/null; then
	zsh -n _quad || fault "completion for zsh is no zsh"
	zsh -fc 'autoload -U compinit; compinit -D -u; functions[_quad]=$(<_quad); whence _quad >/dev/null' || fault "zsh does not take it"
else
	skip "there is no zsh"
fi
# page NAME [WORD]: the man page, and that nothing warns about it
page()
{
	expect 0 ".SH NAME" "$QUAD" help man "${@:2}"
	mv out "$1"
	! command -v groff >/dev/null || [ -z "$(groff -man -ww -Tutf8 "$1" 2>&1 >/dev/null)" ] || fault "groff warns about $1"
	! command -v man >/dev/null || [ -z "$(man --warnings -E UTF-8 -l "$1" 2>&1 >/dev/null)" ] || fault "man warns about $1"
}
command -v groff >/dev/null || skip "there is no groff to read the man pages"
page quad.1
page quad-json.5 json
expect 2 "there is no command 'nonsense'" "$QUAD" help man nonsense
[ "$("$QUAD" help json | grep -c '^  ')" = "$(grep -c '^.TP' quad-json.5)" ] || fault "quad-json(5) lacks fields"

# complete WORD...: what bash offers for the last word
complete_words()
{
	COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
	_quad
	echo "${COMPREPLY[*]}"
}
# shellcheck disable=SC1091
. ./quad.bash 2>/dev/null
for command in $commands; do
	page "quad-$command.1" "$command"
	grep -q "$command" quad.1 || fault "quad(1) lacks $command"
	options=$("$QUAD" "$command" --help | sed -nE 's/^  (-., |    )(--[a-z0-9-]+).*/\2/p')
	offered=" $(complete_words quad "$command" --) "
	for option in $options; do
		[[ $offered == *" $option "* ]] || fault "bash is not offered $option of $command"
		case $option in --help | --usage) continue ;; esac
		grep -qF -e "${option//-/\\-}\\fR" "quad-$command.1" || fault "quad-$command(1) lacks $option"
		sed -n "/^	$command)/,/;;/p" _quad | grep -qE -e "'\*?$option(=?\[)" || fault "zsh is not offered $option of $command"
	done
done
# offers WANTED WORD...
offers()
{
	local wanted=$1 got
	shift
	got=$(complete_words "$@")
	[ "$got" = "$wanted" ] || fault "completes '$*' to '$got' instead of '$wanted'"
}
touch calib.safetensors
mkdir folder
offers "calib" quad cal
offers "json" quad help js
offers "gauge gain" quad qss --align ga
offers "none gauge gain" quad qss --align = ""
offers "gain" quad qss --align = gai
offers "calib.safetensors" quad qss --calib cal
offers "calib.safetensors" quad qss --adapter a = cal
offers "folder" quad qss --base = fol
offers "" quad qss --rank ""
offers "f16" quad train --dtype f1
offers "olss:" quad run --scheduler ol
rm -r calib.safetensors folder

# ---- the examples ----
# A pipeline, data and two adapters under the names that the examples use.
unet='"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [16, 16], "layers_per_block": 1,
  "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": 2, "cross_attention_dim": 12, "norm_num_groups": 4'
echo "{ $unet }" >unet.json
echo '{ "_class_name": "AutoencoderKL", "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"] }' >vae.json
echo '{ "architectures": ["CLIPTextModel"], "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
  "max_position_embeddings": 77, "vocab_size": 514, "eos_token_id": 2 }' >text.json
expect 0 "" "$QUAD" init --config unet.json -o sd15
expect 0 "" "$QUAD" init --config vae.json -o sd15/vae
expect 0 "" "$QUAD" init --config text.json -o sd15/text_encoder
byte_tokenizer sd15/tokenizer 77
expect 0 "" "$QUAD" init --config unet.json --lora 2 --seed 1 -o removal.safetensors
expect 0 "" "$QUAD" init --config unet.json --lora 4 --seed 2 -o sketch.safetensors
mkdir images
for i in 1 2 3 4; do
	cp "$root/tests/fuzz/corpus/png/rgb" images/$i.png
	echo "{\"file_name\": \"$i.png\", \"text\": \"a cat $i\"}" >>images/metadata.jsonl
	echo "{\"text\": \"a cat $i\"}" >>prompts.jsonl
done
PATH=$(dirname "$QUAD"):$PATH
story="init inspect tokenize calib eval qss distill export run olss train report"
[ "$(echo "$commands" | sort)" = "$(echo "$story" | tr ' ' '\n' | sort)" ] || fault "the story leaves out a command"
for command in $story; do
	# shorter than the examples, where that is a matter of time alone
	case $command in
	distill | train) shorter=" --steps 2" ;;
	calib) shorter=" --count 8" ;;
	*) shorter="" ;;
	esac
	"$QUAD" "$command" --help | sed -n '/^Examples:/,$p' | sed -n '2,$p' | sed -e ':a' -e '/\\$/{N; s/ *\\\n */ /; ba' -e '}' >examples
	[ "$(wc -l <examples)" -eq 2 ] || fault "$command has no two examples"
	while read -r line; do
		[ ${#line} -gt 0 ] && expect 0 "" bash -c "$line$shorter"
	done <examples
	"$QUAD" "$command" --help | awk -v command="$command" 'length > 79 { print "help of " command " is wide: " $0 }' >wide
	[ -s wide ] && fault "$(cat wide)"
done

# ---- where they go ----
if command -v make >/dev/null && [ -e "$root/Makefile" ] && [ "$(dirname "$QUAD")" = "$root/build" ]; then
	expect 0 "" env -u MAKEFLAGS -u MAKELEVEL make -C "$root" -s install DESTDIR="$work/root" PREFIX=/usr
	for file in bin/quad man/man1/quad.1 man/man1/quad-qss.1 man/man5/quad-json.5 bash-completion/completions/quad zsh/site-functions/_quad; do
		[ -s "$work/root/usr/share/$file" ] || [ -s "$work/root/usr/$file" ] || fault "make install leaves out $file"
	done
	cmp -s "$work/root/usr/share/man/man1/quad-qss.1" quad-qss.1 || fault "another man page is installed"
	expect 0 "" env -u MAKEFLAGS -u MAKELEVEL make -C "$root" -s uninstall DESTDIR="$work/root" PREFIX=/usr
	[ -z "$(find "$work/root" -type f)" ] || fault "make uninstall leaves $(find "$work/root" -type f)"
fi
finish
