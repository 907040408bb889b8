/*
 * Tokenizer folders that must be refused: the file, what was found in it, and what is needed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "tests/unit/scratch.h"
#include "tests/unit/tokenizer_help.h"

static void check_refused(enum qd_status code, const char *message)
{
	struct qd_tokenizer *t;
	assert_int_equal(qd_tokenizer_open(&t, tok_folder()), code);
	assert_null(t);
	if (strstr(qd_message(), message) == NULL)
		fail_msg("'%s' does not say '%s'", qd_message(), message);
}

static void refuses_folders_without_a_tokenizer(void **state)
{
	(void)state;
	struct qd_tokenizer *t;
	assert_int_equal(qd_tokenizer_open(&t, scratch_path("nowhere")), QD_EIO);
	assert_non_null(strstr(qd_message(), "nowhere' is no folder, needs a tokenizer's"));
	tok_write("", NULL, NULL);
	tok_put("vocab.json", NULL);
	check_refused(QD_EINPUT, "' holds no tokenizer, needs vocab.json and merges.txt, or tokenizer.json");
	tok_write("", NULL, NULL);
	tok_put("merges.txt", NULL);
	check_refused(QD_EIO, "/merges.txt': No such file");
}

static void refuses_bad_vocabularies(void **state)
{
	(void)state;
	static const struct {
		const char *symbol, *id, *message;
	} cases[] = {
		{ "x", "-1", "/vocab.json': the id of 'x' is not a whole number from 0 to 1048575" },
		{ "x", "1048576", "/vocab.json': the id of 'x' is not a whole number from 0 to 1048575" },
		{ "x", "1.5", "/vocab.json': the id of 'x' is not a whole number from 0 to 1048575" },
		{ "x", "\"1\"", "/vocab.json': the id of 'x' is not a whole number from 0 to 1048575" },
		{ "x", "98", "' both have the id 98" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		tok_write("", NULL, NULL);
		char *text = tok_vocabulary(), changed[1 << 15], key[40];
		snprintf(key, sizeof(key), "\"%s\": ", cases[i].symbol);
		char *at = strstr(text, key) + strlen(key);
		snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - text), text, cases[i].id, at + strcspn(at, ",}"));
		tok_put("vocab.json", changed);
		check_refused(QD_EINPUT, cases[i].message);
		free(text);
	}
	tok_put("vocab.json", "[1]");
	check_refused(QD_EINPUT, "/vocab.json': the vocabulary is not an object of symbols and ids");
	tok_put("vocab.json", "{\"a\": 0}");
	check_refused(QD_EINPUT, "/vocab.json' lacks the symbol 'Ā' of byte 0");
	tok_put("vocab.json", "{\"a\": 0, \"a\": 1}");
	check_refused(QD_EINPUT, "duplicate object key");
	tok_put("vocab.json", "{\"\xff\": 0}");
	check_refused(QD_EINPUT, "unable to decode byte 0xff");
	tok_put("vocab.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
	check_refused(QD_EINPUT, "/vocab.json' is a Git-LFS pointer");
}

static void refuses_bad_merges(void **state)
{
	(void)state;
	static const struct {
		const char *text, *message;
	} cases[] = {
		{ "#version: 0.2\na b\n\nx y\n", "/merges.txt': line 3: '' is not two symbols with one space between" },
		{ "a b\nab\n", "/merges.txt': line 2: 'ab' is not two symbols with one space between" },
		{ "a b c\n", "/merges.txt': line 1: 'a b c' is not two symbols with one space between" },
		{ "a \n", "/merges.txt': line 1: 'a ' is not two symbols with one space between" },
		{ "a b\nzz a\n", "/merges.txt': line 2: 'zz' is no symbol of the vocabulary" },
		{ "a b\na zz\n", "/merges.txt': line 2: 'zz' is no symbol of the vocabulary" },
		{ "a b\nab a\n", "/merges.txt': line 2: 'aba' is no symbol of the vocabulary" },
		{ "a b\r\na b\r\n", "/merges.txt': line 2: the same pair is merge 1 already" },
		{ "a b\n\xff c\n", "/merges.txt': byte 4 is not UTF-8" },
		{ "version https://git-lfs.github.com/spec/v1\n", "/merges.txt' is a Git-LFS pointer" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		tok_write("a b\n", NULL, NULL);
		tok_put("merges.txt", cases[i].text);
		check_refused(QD_EINPUT, cases[i].message);
	}
}

static void refuses_bad_settings(void **state)
{
	(void)state;
	static const struct {
		enum qd_status code;
		const char *config, *map, *message;
	} cases[] = {
		{ QD_EINPUT, "[]", NULL, "/tokenizer_config.json' is not an object" },
		{ QD_EINPUT, NULL, "[]", "/special_tokens_map.json' is not an object" },
		{ QD_EINPUT, "{\"pad_token\": null}", NULL, "/tokenizer_config.json': field 'pad_token' is null, needs a text" },
		{ QD_EINPUT, NULL, "{\"pad_token\": 1}",
			"/special_tokens_map.json': 'pad_token' is neither a text nor an object with a text 'content'" },
		{ QD_EINPUT, "{\"eos_token\": {\"content\": \"\"}}", NULL,
			"/tokenizer_config.json': 'eos_token' is neither a text nor an object with a text 'content'" },
		{ QD_EINPUT, "{\"eos_token\": {\"content\": \"x\", \"normalized\": 1}}", NULL,
			"/tokenizer_config.json': field 'normalized' is 1.0, needs true or false" },
		{ QD_EUNSUPPORTED, "{\"eos_token\": {\"content\": \"x\", \"single_word\": true}}", NULL,
			"/tokenizer_config.json': field 'single_word' is true, needs false" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": []}", NULL, "field 'added_tokens_decoder' is not an object" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": {\"x\": \"y\"}}", NULL, "'x' of 'added_tokens_decoder' is no id" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": {\"7\": \"!\"}}", NULL, "'!' has the id 7, the vocabulary gives it 0" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": {\"600\": \"<x>\"}}", NULL,
			"'<x>' has the id 600, the vocabulary gives it 514" },
		{ QD_EINPUT, "{\"model_max_length\": 1}", NULL, "field 'model_max_length' is 1.0, needs a number from 2 up" },
		{ QD_EINPUT, "{\"model_max_length\": 7.5}", NULL,
			"field 'model_max_length' is 7.5, needs a whole number from 2 up" },
		{ QD_EINPUT, "{\"model_max_length\": \"77\"}", NULL,
			"field 'model_max_length' is \"77\", needs a number from 2 up" },
		{ QD_EUNSUPPORTED, "{\"tokenizer_class\": \"T5Tokenizer\"}", NULL,
			"field 'tokenizer_class' is \"T5Tokenizer\", needs \"CLIPTokenizer\", \"CLIPTokenizerFast\" or null" },
		{ QD_EUNSUPPORTED, "{\"padding_side\": \"left\"}", NULL,
			"field 'padding_side' is \"left\", needs \"right\" or null" },
		{ QD_EUNSUPPORTED, "{\"truncation_side\": \"left\"}", NULL,
			"field 'truncation_side' is \"left\", needs \"right\" or null" },
		{ QD_EUNSUPPORTED, "{\"split_special_tokens\": true}", NULL, "field 'split_special_tokens' is true, needs false" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		tok_write("", cases[i].config, cases[i].map);
		check_refused(cases[i].code, cases[i].message);
	}
	tok_write("", NULL, NULL);
	tok_put("added_tokens.json", "{\"<x>\": \"7\"}");
	check_refused(QD_EINPUT, "/added_tokens.json': the id of '<x>' is not a whole number");
}

static void refuses_a_new_string_where_ids_have_holes(void **state)
{
	(void)state;
	tok_write("", NULL, NULL);
	strcpy(tok_symbols[tok_n_symbols], "hole");
	tok_n_symbols += 2;
	strcpy(tok_symbols[tok_n_symbols - 1], "last");
	memset(tok_symbols[tok_n_symbols - 2], 0, sizeof(tok_symbols[0]));
	char *text = tok_vocabulary(), *empty = strstr(text, "\"\": 514, ");
	memmove(empty, empty + 9, strlen(empty + 9) + 1);
	tok_put("vocab.json", text);
	free(text);
	tok_put("tokenizer_config.json", "{\"pad_token\": \"<pad>\"}");
	check_refused(QD_EINPUT, "'<pad>' is in no vocabulary, and '");
}

static void refuses_other_kinds_of_tokenizer_json(void **state)
{
	(void)state;
	static const struct {
		enum qd_status code;
		const char *merges, *model, *added, *message;
	} cases[] = {
		{ QD_EUNSUPPORTED, "[]", "\"type\": \"Unigram\"", "[]",
			"/tokenizer.json': field 'type' is \"Unigram\", needs \"BPE\" or null" },
		{ QD_EUNSUPPORTED, "[]", "\"end_of_word_suffix\": null", "[]",
			"/tokenizer.json': field 'end_of_word_suffix' is null, needs \"</w>\"" },
		{ QD_EINPUT, "{}", "\"type\": \"BPE\"", "[]", "field 'model.merges' is not a list" },
		{ QD_EINPUT, "[\"a b\", 1]", "\"type\": \"BPE\"", "[]", "merge 2: neither a text nor a pair of texts" },
		{ QD_EINPUT, "[[\"a\"]]", "\"type\": \"BPE\"", "[]", "merge 1: neither a text nor a pair of texts" },
		{ QD_EINPUT, "[[\"a\", \"zz\"]]", "\"type\": \"BPE\"", "[]", "merge 1: 'zz' is no symbol of the vocabulary" },
		{ QD_EINPUT, "[]", "\"type\": \"BPE\"", "{}", "field 'added_tokens' is not a list" },
		{ QD_EINPUT, "[]", "\"type\": \"BPE\"", "[{\"content\": \"x\"}]",
			"the 'id' of added token 0 is not a whole number" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		tok_write_json(cases[i].merges, cases[i].model, cases[i].added);
		check_refused(cases[i].code, cases[i].message);
	}
	tok_put("tokenizer.json", "{}");
	check_refused(QD_EINPUT, "/tokenizer.json': field 'model' is not an object");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_folders_without_a_tokenizer),
		cmocka_unit_test(refuses_bad_vocabularies),
		cmocka_unit_test(refuses_bad_merges),
		cmocka_unit_test(refuses_bad_settings),
		cmocka_unit_test(refuses_a_new_string_where_ids_have_holes),
		cmocka_unit_test(refuses_other_kinds_of_tokenizer_json),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
