/*
 * Tokenizer folders made on the spot: the byte symbols, the symbols that merges make, and the two special strings.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/unit/scratch.h"
#include "tests/unit/tokenizer_help.h"

char tok_symbols[TOK_MAX_SYMBOLS][40];
int tok_n_symbols;

int tok_id(const char *symbol, size_t bytes)
{
	for (int i = 0; i < tok_n_symbols; i++)
		if (strlen(tok_symbols[i]) == bytes && memcmp(tok_symbols[i], symbol, bytes) == 0)
			return i;
	return -1;
}

/* The 512 byte symbols, in the order of GPT-2's table: the bytes that stand for themselves, then the others. */
static void start_vocabulary(void)
{
	int n = 0;
	tok_n_symbols = 0;
	for (int round = 0; round < 2; round++)
		for (int b = 0; b < 256; b++) {
			bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
			int point = itself ? b : 256 + n;
			if (itself != (round == 0))
				continue;
			n += !itself;
			if (point < 0x80)
				snprintf(tok_symbols[tok_n_symbols++], 40, "%c", point);
			else
				snprintf(tok_symbols[tok_n_symbols++], 40, "%c%c", 0xc0 | point >> 6, 0x80 | (point & 0x3f));
		}
	for (int i = 0; i < 256; i++, tok_n_symbols++) {
		memcpy(tok_symbols[tok_n_symbols], tok_symbols[i], sizeof(tok_symbols[i]));
		strcat(tok_symbols[tok_n_symbols], "</w>");
	}
}

const char *tok_folder(void)
{
	const char *path = scratch_path("tokenizer");
	mkdir(path, 0777);
	return path;
}

void tok_put(const char *name, const char *text)
{
	char path[64];
	snprintf(path, sizeof(path), "tokenizer/%s", name);
	tok_folder();
	if (text != NULL)
		scratch_file(path, text, strlen(text));
	else
		remove(scratch_path(path));
}

char *tok_vocabulary(void)
{
	json_t *object = json_object();
	for (int i = 0; i < tok_n_symbols; i++)
		json_object_set_new(object, tok_symbols[i], json_integer(i));
	char *text = json_dumps(object, 0);
	json_decref(object);
	return text;
}

void tok_write(const char *merges, const char *config, const char *map)
{
	static char lines[1 << 16];
	char *text;

	start_vocabulary();
	snprintf(lines, sizeof(lines), "#version: 0.2\n%s", merges);
	for (const char *line = merges; *line; line = strchr(line, '\n') + 1) {
		size_t left = strcspn(line, " "), right = strcspn(line + left + 1, "\n");
		char joined[40];
		snprintf(joined, sizeof(joined), "%.*s%.*s", (int)left, line, (int)right, line + left + 1);
		if (tok_id(joined, strlen(joined)) < 0)
			strcpy(tok_symbols[tok_n_symbols++], joined);
	}
	strcpy(tok_symbols[tok_n_symbols++], "<|startoftext|>");
	strcpy(tok_symbols[tok_n_symbols++], "<|endoftext|>");
	text = tok_vocabulary();
	tok_put("vocab.json", text);
	free(text);
	tok_put("merges.txt", lines);
	tok_put("tokenizer_config.json", config);
	tok_put("special_tokens_map.json", map);
	tok_put("added_tokens.json", NULL);
	tok_put("tokenizer.json", NULL);
}

void tok_write_json(const char *merges, const char *model, const char *added)
{
	tok_write("a b\nab c</w>\n", NULL, NULL);
	char *vocabulary = tok_vocabulary();
	static char text[1 << 16];
	snprintf(text, sizeof(text), "{\"model\": {%s, \"vocab\": %s, \"merges\": %s}, \"added_tokens\": %s}", model, vocabulary,
		merges, added);
	tok_put("tokenizer.json", text);
	tok_put("vocab.json", NULL);
	tok_put("merges.txt", NULL);
	free(vocabulary);
}
