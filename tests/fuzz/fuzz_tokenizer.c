/*
 * Any bytes as the files of a tokenizer and a text for it: sections with the byte 0x1e between, in the order vocabulary, merges,
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json, tokenizer.json, text. An empty section is a file that is not
 * there; an empty vocabulary means a small valid one. Whatever opens must give ids within its size, cut and padded as it says.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "lib/tokenizer/internal.h"

enum { VOCABULARY, MERGES, CONFIG, MAP, ADDED, TOKENIZER, TEXT, SECTIONS };

struct section {
	const char *data;
	size_t size;
};

static void split(const uint8_t *data, size_t size, struct section *sections)
{
	const char *at = (const char *)data, *end = at + size;
	for (int i = 0; i < SECTIONS; i++) {
		const char *stop = i + 1 < SECTIONS && at < end ? memchr(at, 0x1e, (size_t)(end - at)) : NULL;
		sections[i] = (struct section){ at, (size_t)((stop != NULL ? stop : end) - at) };
		at = stop != NULL ? stop + 1 : end;
	}
}

static json_t *small_vocabulary(void)
{
	static const char *const more[] = { "ab", "abc</w>", "aa", "'s</w>", "<|startoftext|>", "<|endoftext|>" };
	json_t *vocabulary = json_object();
	int id = 0;
	for (int ends = 0; ends < 2; ends++)
		for (int byte = 0, others = 0; byte < 256; byte++) {
			bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
			char symbol[16] = { 0 };
			size_t n = qd_point_bytes(itself ? byte : 256 + others++, (unsigned char *)symbol);
			memcpy(symbol + n, "</w>", ends ? 4 : 0);
			json_object_set_new(vocabulary, symbol, json_integer(id++));
		}
	for (size_t i = 0; i < QD_COUNT(more); i++)
		json_object_set_new(vocabulary, more[i], json_integer(id++));
	return vocabulary;
}

/* False: not JSON, which is another target's business. */
static bool parse(const struct section *section, json_t **out)
{
	return section->size == 0 || qd_json_parse("fuzz", section->data, section->size, out) == QD_OK;
}

static void check(const struct qd_tokenizer *t, const struct section *text)
{
	size_t length = qd_tokenizer_length(t), n = 0;
	int32_t *ids = malloc(length * sizeof(*ids));
	assert(ids != NULL && length >= 2);
	if (qd_tokenizer_encode(t, text->data, text->size, ids, &n) == QD_OK) {
		size_t kept = n < length ? n : length;
		assert(n >= 2 && ids[0] == (int32_t)t->start && ids[kept - 1] == (int32_t)t->end);
		for (size_t i = 0; i < length; i++)
			assert(ids[i] >= 0 && (size_t)ids[i] < qd_tokenizer_size(t));
		for (size_t i = kept; i < length; i++)
			assert(ids[i] == (int32_t)t->pad);
	}
	free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[] = "fuzz";
	struct section s[SECTIONS];
	struct qd_tokenizer_files files = { .vocab_path = path,
		.merges_path = path,
		.tokenizer_path = path,
		.config_path = path,
		.map_path = path,
		.added_path = path };
	struct qd_tokenizer *t = NULL;

	split(data, size, s);
	if (parse(&s[VOCABULARY], &files.vocab) && parse(&s[CONFIG], &files.config) && parse(&s[MAP], &files.map) &&
		parse(&s[ADDED], &files.added) && parse(&s[TOKENIZER], &files.tokenizer)) {
		files.merges = (struct qd_mapping){ (const unsigned char *)s[MERGES].data, s[MERGES].size };
		if (files.vocab == NULL)
			files.vocab = small_vocabulary();
		if (qd_tokenizer_build(&t, &files) == QD_OK)
			check(t, &s[TEXT]);
		else if (t != NULL || *qd_message() == '\0')
			abort();
	}
	files.merges = (struct qd_mapping){ 0 }; /* it was not mapped */
	qd_tokenizer_free(t);
	qd_tokenizer_files_release(&files);
	return 0;
}
