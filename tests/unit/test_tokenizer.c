/*
 * CLIP's tokenizer: every rule on a vocabulary made here (the byte symbols, a few merges, the two special strings), merging against
 * a plain loop, and the golden prompts with the real vocabulary.
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

static struct qd_tokenizer *opened(void)
{
	struct qd_tokenizer *t;
	if (qd_tokenizer_open(&t, tok_folder()) != QD_OK)
		fail_msg("%s", qd_message());
	return t;
}

/* `want`: symbols with a space between, or #id; what must come out between start and end. */
static void check(const struct qd_tokenizer *t, const char *text, const char *want)
{
	size_t length = qd_tokenizer_length(t), n, at = 1;
	int32_t *ids = calloc(length, sizeof(*ids));

	assert_int_equal(qd_tokenizer_encode(t, text, strlen(text), ids, &n), QD_OK);
	assert_int_equal(ids[0], tok_id("<|startoftext|>", 15));
	for (const char *word = want; *word; at++) {
		size_t bytes = strcspn(word, " ");
		int id = word[0] == '#' && bytes > 1 ? atoi(word + 1) : tok_id(word, bytes);
		assert_true(id >= 0 && at < length);
		if (ids[at] != id)
			fail_msg("'%s': id %zu is %d ('%s'), needs %d ('%.*s')", text, at, ids[at],
				ids[at] < tok_n_symbols ? tok_symbols[ids[at]] : "", id, (int)bytes, word);
		word += bytes + (word[bytes] == ' ');
	}
	assert_int_equal(ids[at], tok_id("<|endoftext|>", 13));
	assert_int_equal(n, at + 1);
	free(ids);
}

static const char two_roles[] = "{\"bos_token\": \"<|startoftext|>\", \"eos_token\": \"<|endoftext|>\"}";

/* ---- rules ---- */

static void bytes_become_symbols(void **state)
{
	(void)state;
	tok_write("", NULL, NULL);
	struct qd_tokenizer *t = opened();
	check(t, "", "");
	check(t, "ab", "a b</w>");
	check(t, "\xc3\xa9", "Ã ©</w>");
	check(t, "\x7f", "ġ</w>");
	assert_int_equal(qd_tokenizer_length(t), 77);
	assert_int_equal(qd_tokenizer_size(t), 514);
	qd_tokenizer_free(t);
}

static void merges_lowest_rank_first_then_leftmost(void **state)
{
	(void)state;
	tok_write("b c\na b\na a\nbc d</w>\naa a</w>\n", NULL, NULL);
	struct qd_tokenizer *t = opened();
	check(t, "abcd", "a bcd</w>");
	check(t, "abc", "ab c</w>");
	check(t, "aaa", "aaa</w>");
	check(t, "aaaa", "aa a a</w>");
	check(t, "aaaaa", "aa aaa</w>");
	qd_tokenizer_free(t);
}

static void text_falls_into_pieces(void **state)
{
	(void)state;
	tok_write("' s</w>\nr e</w>\n' re</w>\n", NULL, NULL);
	struct qd_tokenizer *t = opened();
	check(t, "it's", "i t</w> 's</w>");
	check(t, "IT'S", "i t</w> 's</w>");
	check(t, "we're'rest", "w e</w> 're</w> 're</w> s t</w>");
	check(t, "'ll've'm'd't", "' l l</w> ' v e</w> ' m</w> ' d</w> ' t</w>");
	check(t, "''s", "' '</w> s</w>");
	check(t, "12a3", "1</w> 2</w> a</w> 3</w>");
	check(t, "a.,!b", "a</w> . , !</w> b</w>");
	check(t, "\xe2\x85\xa7\xc2\xbd", "â ħ ·</w> Â ½</w>");       /* U+2167, in lower case U+2177, and U+00BD are numbers */
	check(t, "\xe0\xa4\xb9\xe0\xa4\xbf", "à ¤ ¹</w> à ¤ ¿</w>"); /* U+093F is a mark: no letter */
	qd_tokenizer_free(t);
}

static void special_spellings_without_a_role_fall_apart(void **state)
{
	(void)state;
	tok_write("", "{\"eos_token\": \"a\", \"unk_token\": \"a\", \"pad_token\": \"a\"}", NULL);
	struct qd_tokenizer *t;
	int32_t ids[77];
	size_t n;

	assert_int_equal(qd_tokenizer_open(&t, tok_folder()), QD_OK);
	assert_int_equal(qd_tokenizer_encode(t, "<|endoftext|>'s", 15, ids, &n), QD_OK);
	/* "<|", "endoftext", "|>", "'s": as one run of signs the end would be "|>'" */
	const char *const want[] = { "<", "|</w>", "e", "n", "d", "o", "f", "t", "e", "x", "t</w>", "|", "></w>", "'", "s</w>" };
	assert_int_equal(n, QD_COUNT(want) + 2);
	for (size_t i = 0; i < QD_COUNT(want); i++)
		assert_int_equal(ids[i + 1], tok_id(want[i], strlen(want[i])));
	qd_tokenizer_free(t);
}

static void text_is_normalized(void **state)
{
	(void)state;
	tok_write("", NULL, NULL);
	struct qd_tokenizer *t = opened();
	check(t, "e\xcc\x81", "Ã ©</w>");                         /* e U+0301 is U+00E9 */
	check(t, "a\xcc\x82\xcc\xa3", "á º Ń</w>");               /* marks are ordered, then composed: U+1EAD */
	check(t, "\xe1\x84\x80\xe1\x85\xa1", "ê ° Ģ</w>");        /* Hangul: U+AC00 */
	check(t, "\xea\xb0\x80\xe1\x86\xa7", "ê ° Ģ á Ĩ §</w>");  /* U+11A7 is no final consonant */
	check(t, "a\xe0\xa2\x99\xcc\xa3", "a</w> à ¢ Ļ Ì £</w>"); /* U+0899 is younger than the tables: nothing passes it */
	check(t, "a \t\n\xe2\x80\x83\xe3\x80\x80\xc2\x85z", "a</w> z</w>");
	check(t, " \n ", "");
	check(t, "A\xc3\x89", "a Ã ©</w>");
	check(t, "\xc4\xb0", "i</w> Ì ĩ</w>");       /* U+0130 becomes two */
	check(t, "\xce\xa3\xce\xa3", "Ï ĥ Ï ĥ</w>"); /* no final sigma */
	check(t, "\xef\xbc\xa1", "ï ½ ģ</w>");       /* U+FF21 stays full-width: U+FF41 */
	qd_tokenizer_free(t);
}

static void invalid_utf8_is_replaced(void **state)
{
	(void)state;
	tok_write("", NULL, NULL);
	struct qd_tokenizer *t = opened();
	const char *const bad[] = { "\xff", "\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0", "\xc0", "\xf4\x90" };
	const int count[] = { 1, 1, 1, 1, 1, 2, 1,
		2 }; /* a surrogate's and a too large code point's second byte is bad by itself */
	for (size_t i = 0; i < QD_COUNT(bad); i++)
		check(t, bad[i], count[i] == 1 ? "ï ¿ ½</w>" : "ï ¿ ½ ï ¿ ½</w>");
	check(t, "a\xe2\x82z", "a</w> ï ¿ ½</w> z</w>");
	int32_t ids[77];
	size_t n;
	assert_int_equal(qd_tokenizer_encode(t, "a\0b", 3, ids, &n), QD_OK);
	assert_int_equal(n, 5);
	qd_tokenizer_free(t);
}

/* ---- special strings ---- */

static void plain_special_strings_are_cut_before_normalizing(void **state)
{
	(void)state;
	tok_write("", two_roles, NULL);
	struct qd_tokenizer *t = opened();
	check(t, "a<|endoftext|>b", "a</w> <|endoftext|> b</w>");
	check(t, "<|STARTOFTEXT|>", "< |</w> s t a r t o f t e x t</w> | ></w>");
	qd_tokenizer_free(t);
}

static void normalized_special_strings_are_cut_in_any_case(void **state)
{
	(void)state;
	tok_write("",
		"{\"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"<|startoftext|>\", \"normalized\": true},"
		" \"eos_token\": {\"__type\": \"AddedToken\", \"content\": \"<|endoftext|>\", \"normalized\": true},"
		" \"unk_token\": {\"__type\": \"AddedToken\", \"content\": \"<|endoftext|>\", \"normalized\": true},"
		" \"pad_token\": \"<|endoftext|>\"}",
		NULL);
	struct qd_tokenizer *t = opened();
	check(t, "x<|StartOfText|>y", "x</w> <|startoftext|> y</w>");
	/* The pad token names the end string plainly, so that only the plain spelling is special. */
	check(t, "<|endoftext|>", "<|endoftext|>");
	check(t, "<|ENDOFTEXT|>", "< |</w> e n d o f t e x t</w> | ></w>");
	qd_tokenizer_free(t);
}

static void a_pad_string_splits_words(void **state)
{
	(void)state;
	tok_write("", "{\"pad_token\": \"!\"}", NULL);
	struct qd_tokenizer *t = opened();
	int32_t ids[77];
	check(t, "! !! wow!yes", "! ! ! w o w</w> ! y e s</w>");
	assert_int_equal(qd_tokenizer_encode(t, "a", 1, ids, NULL), QD_OK);
	assert_int_equal(ids[3], 0);
	assert_int_equal(ids[76], 0);
	qd_tokenizer_free(t);
}

static void added_tokens_get_the_next_ids_and_the_longest_wins(void **state)
{
	(void)state;
	tok_write("",
		"{\"added_tokens_decoder\": {\"515\": {\"content\": \"<cat-toy>\"}, \"514\": {\"content\": \"<cat\"}},"
		" \"tokenizer_class\": \"CLIPTokenizer\"}",
		NULL);
	struct qd_tokenizer *t = opened();
	check(t, "a <CAT-toy><cat>", "a</w> #515 #514 ></w>");
	assert_int_equal(qd_tokenizer_size(t), 516);
	qd_tokenizer_free(t);
}

static void added_tokens_json_counts_without_a_list(void **state)
{
	(void)state;
	tok_write("", NULL, "{\"additional_special_tokens\": [\"<Own>\"]}");
	tok_put("added_tokens.json", "{\"<Toy>\": 514}");
	struct qd_tokenizer *t = opened();
	check(t, "<toy> <own><Own>", "#514 <</w> o w n</w> ></w> #515");
	qd_tokenizer_free(t);
}

static uint32_t pad_of(const char *config, const char *map)
{
	int32_t ids[77];
	tok_write("", config, map);
	struct qd_tokenizer *t = opened();
	assert_int_equal(qd_tokenizer_encode(t, "", 0, ids, NULL), QD_OK);
	qd_tokenizer_free(t);
	return (uint32_t)ids[76];
}

static void the_pad_token_comes_from_the_right_file(void **state)
{
	(void)state;
	assert_int_equal(pad_of(NULL, NULL), 513);
	assert_int_equal(pad_of("{\"pad_token\": \"!\"}", NULL), 0);
	assert_int_equal(pad_of("{\"pad_token\": \"!\"}", "{\"pad_token\": \"\\\"\"}"), 1);
	assert_int_equal(pad_of("{\"pad_token\": \"!\", \"added_tokens_decoder\": {}}", "{\"pad_token\": \"\\\"\"}"), 0);
}

/* ---- lengths ---- */

static void text_is_cut_to_the_length(void **state)
{
	(void)state;
	tok_write("", "{\"model_max_length\": 5}", NULL);
	struct qd_tokenizer *t = opened();
	int32_t ids[5];
	size_t n;
	assert_int_equal(qd_tokenizer_length(t), 5);
	assert_int_equal(qd_tokenizer_encode(t, "abcd", 4, ids, &n), QD_OK);
	assert_int_equal(n, 6);
	const char *const want[] = { "<|startoftext|>", "a", "b", "c", "<|endoftext|>" };
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(ids[i], tok_id(want[i], strlen(want[i])));
	qd_tokenizer_free(t);
}

static size_t length_of(const char *config)
{
	tok_write("", config, NULL);
	struct qd_tokenizer *t = opened();
	size_t length = qd_tokenizer_length(t);
	qd_tokenizer_free(t);
	return length;
}

static void the_length_is_the_models(void **state)
{
	(void)state;
	assert_int_equal(length_of("{\"model_max_length\": 248}"), 248);
	assert_int_equal(length_of("{\"max_len\": 20}"), 20);
	assert_int_equal(length_of("{\"model_max_length\": null}"), 77);
	/* what writers without a limit put: not a 64-bit integer */
	assert_int_equal(length_of("{\"model_max_length\": 1000000000000000019884624838656}"), 77);
}

/* ---- merging against a plain loop ---- */

/* Joins the pair of lowest rank, among equals the leftmost, until none is left: the whole word is looked at every time. */
static size_t merge_plainly(int *ids, size_t n, int (*pairs)[3], int n_pairs)
{
	for (;;) {
		int best = n_pairs;
		size_t at = 0;
		for (size_t i = 0; i + 1 < n; i++)
			for (int p = 0; p < best; p++)
				if (pairs[p][0] == ids[i] && pairs[p][1] == ids[i + 1]) {
					best = p;
					at = i;
				}
		if (best == n_pairs)
			return n;
		ids[at] = pairs[best][2];
		memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
		n--;
	}
}

/* Random merges over the letters a, b, c: each joins two symbols that exist into one that may exist already. */
static int random_merges(char *lines, size_t room, int count)
{
	static char made[64][40];
	int n = 6, kept = 0;
	size_t used = 0;
	const char *const first[] = { "a", "b", "c", "a</w>", "b</w>", "c</w>" };

	for (int i = 0; i < n; i++)
		strcpy(made[i], first[i]);
	lines[0] = '\0';
	for (int i = 0; i < count; i++) {
		char line[100];
		const char *left = made[rand() % n], *right = made[rand() % n];
		snprintf(line, sizeof(line), "\n%s %s\n", left, right);
		if (strchr(left, '/') != NULL || strlen(left) + strlen(right) > 12 || strstr(lines, line + 1) == lines ||
			strstr(lines, line) != NULL)
			continue;
		used += (size_t)snprintf(lines + used, room - used, "%s", line + 1);
		strcat(strcpy(made[n++], left), right);
		kept++;
	}
	return kept;
}

static int read_pairs(const char *lines, int (*pairs)[3])
{
	int n = 0;
	for (const char *line = lines; *line; line = strchr(line, '\n') + 1, n++) {
		size_t left = strcspn(line, " "), right = strcspn(line + left + 1, "\n");
		char joined[40];
		snprintf(joined, sizeof(joined), "%.*s%.*s", (int)left, line, (int)right, line + left + 1);
		pairs[n][0] = tok_id(line, left);
		pairs[n][1] = tok_id(line + left + 1, right);
		pairs[n][2] = tok_id(joined, strlen(joined));
	}
	return n;
}

static void merging_equals_a_plain_loop(void **state)
{
	(void)state;
	srand((unsigned)test_seed());
	for (int round = 0; round < 20; round++) {
		static char lines[4096];
		int pairs[64][3], word[75];
		random_merges(lines, sizeof(lines), 40);
		tok_write(lines, NULL, NULL);
		int n_pairs = read_pairs(lines, pairs);
		struct qd_tokenizer *t = opened();
		for (int trial = 0; trial < 50; trial++) {
			char text[76];
			int32_t ids[77];
			size_t length = (size_t)(1 + rand() % 75), n;
			for (size_t i = 0; i < length; i++) {
				text[i] = (char)('a' + rand() % 3);
				word[i] = tok_id(text + i, 1) + (i + 1 == length ? 256 : 0);
			}
			size_t want = merge_plainly(word, length, pairs, n_pairs);
			assert_int_equal(qd_tokenizer_encode(t, text, length, ids, &n), QD_OK);
			assert_int_equal(n, want + 2);
			for (size_t i = 0; i < want; i++)
				assert_int_equal(ids[i + 1], word[i]);
		}
		qd_tokenizer_free(t);
	}
}

/* A word and a run of marks as long as a file: with anything quadratic this test does not end. */
static void long_texts_end(void **state)
{
	(void)state;
	enum { N = 1 << 20 };
	tok_write("a a\naa aa\naaaa aaaa\n", NULL, NULL);
	struct qd_tokenizer *t = opened();
	char *text = malloc(N);
	int32_t ids[77];
	size_t n;
	memset(text, 'a', N);
	assert_int_equal(qd_tokenizer_encode(t, text, N, ids, &n), QD_OK);
	/* N - 1 letters in eights, then 4, 2 and 1, then the ending one */
	assert_int_equal(n, N / 8 - 1 + 3 + 1 + 2);
	for (size_t i = 0; i + 4 <= N; i += 4)
		memcpy(text + i, "\xcc\x81\xcc\xa3", 4);
	assert_int_equal(qd_tokenizer_encode(t, text, N, ids, &n), QD_OK);
	assert_int_equal(n, N + 2);
	assert_int_equal(ids[2], tok_id("£", 2));
	assert_int_equal(ids[4], tok_id("£", 2));
	free(text);
	qd_tokenizer_free(t);
}

/* ---- tokenizer.json ---- */

static void one_file_holds_all(void **state)
{
	(void)state;
	static const char *const merges[] = { "[[\"a\", \"b\"], [\"ab\", \"c</w>\"]]", "[\"a b\", \"ab c</w>\"]" };
	for (size_t i = 0; i < QD_COUNT(merges); i++) {
		tok_write_json(merges[i], "\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\"",
			"[{\"id\": 514, \"content\": \"<|startoftext|>\", \"normalized\": true},"
			" {\"id\": 515, \"content\": \"<|endoftext|>\", \"normalized\": false},"
			" {\"id\": 516, \"content\": \"<x>\", \"normalized\": false}]");
		struct qd_tokenizer *t = opened();
		check(t, "abc ab<|STARTOFTEXT|><x><X>", "abc</w> a b</w> <|startoftext|> #516 <</w> x</w> ></w>");
		qd_tokenizer_free(t);
	}
}

/* ---- golden prompts ---- */

static void check_golden_line(const struct qd_tokenizer *t, const json_t *line, const char *key)
{
	const json_t *text = json_object_get(line, "text"), *want = json_object_get(line, key);
	const json_t *count = json_object_get(line, "n"), *uncut = json_object_get(line, "untruncated");
	int32_t ids[77];
	size_t n;

	assert_int_equal(json_array_size(want), 77);
	assert_int_equal(qd_tokenizer_encode(t, json_string_value(text), json_string_length(text), ids, &n), QD_OK);
	for (size_t i = 0; i < 77; i++)
		if (ids[i] != json_integer_value(json_array_get(want, i)))
			fail_msg("'%s': id %zu is %d", json_string_value(text), i, ids[i]);
	if (uncut != NULL || count != NULL)
		assert_int_equal(n, json_integer_value(uncut != NULL ? uncut : count));
}

static void check_golden(const char *lines, const char *folder_name, const char *key)
{
	struct qd_tokenizer *t;
	const char *path = golden_path(lines);
	if (path == NULL)
		skip();
	assert_int_equal(qd_tokenizer_open(&t, folder_name), QD_OK);
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t room = 0, n = 0;
	assert_non_null(file);
	for (ssize_t bytes; (bytes = getline(&line, &room, file)) > 0; n++) {
		json_t *value;
		assert_int_equal(qd_json_parse(lines, line, (size_t)bytes, &value), QD_OK);
		check_golden_line(t, value, key);
		json_decref(value);
	}
	assert_true(n >= 2);
	free(line);
	fclose(file);
	qd_tokenizer_free(t);
}

static void golden_prompts(void **state)
{
	(void)state;
	check_golden("text/tokens.jsonl", golden_path("text/tokenizer"), "ids");
}

static void copy_golden(const char *from, const char *to)
{
	struct qd_mapping file;
	const char *path = golden_path(from);
	if (path == NULL)
		skip();
	assert_int_equal(qd_mapping_open(&file, path), QD_OK);
	scratch_file(to, file.data, file.size);
	qd_mapping_release(&file);
}

static void golden_prompts_of_the_second_tokenizer(void **state)
{
	(void)state;
	mkdir(scratch_path("second"), 0777);
	copy_golden("text/tokenizer/vocab.json", "second/vocab.json");
	copy_golden("text/tokenizer/merges.txt", "second/merges.txt");
	copy_golden("text/tokenizer_2/tokenizer_config.json", "second/tokenizer_config.json");
	copy_golden("text/tokenizer_2/special_tokens_map.json", "second/special_tokens_map.json");
	check_golden("text/tokens_2.jsonl", scratch_path("second"), "ids");
}

static void golden_prompts_of_the_tiny_tokenizers(void **state)
{
	(void)state;
	check_golden("text/tokens_tiny.jsonl", golden_path("text/tokenizer_tiny"), "ids");
	check_golden("text/tokens_tiny.jsonl", golden_path("text/tokenizer_tiny_2"), "ids_2");
	check_golden("text/tokens_tiny.jsonl", golden_path("text/tokenizer_tiny_v5"), "ids");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_become_symbols),
		cmocka_unit_test(merges_lowest_rank_first_then_leftmost),
		cmocka_unit_test(text_falls_into_pieces),
		cmocka_unit_test(special_spellings_without_a_role_fall_apart),
		cmocka_unit_test(text_is_normalized),
		cmocka_unit_test(invalid_utf8_is_replaced),
		cmocka_unit_test(plain_special_strings_are_cut_before_normalizing),
		cmocka_unit_test(normalized_special_strings_are_cut_in_any_case),
		cmocka_unit_test(a_pad_string_splits_words),
		cmocka_unit_test(added_tokens_get_the_next_ids_and_the_longest_wins),
		cmocka_unit_test(added_tokens_json_counts_without_a_list),
		cmocka_unit_test(the_pad_token_comes_from_the_right_file),
		cmocka_unit_test(text_is_cut_to_the_length),
		cmocka_unit_test(the_length_is_the_models),
		cmocka_unit_test(merging_equals_a_plain_loop),
		cmocka_unit_test(long_texts_end),
		cmocka_unit_test(one_file_holds_all),
		cmocka_unit_test(golden_prompts),
		cmocka_unit_test(golden_prompts_of_the_second_tokenizer),
		cmocka_unit_test(golden_prompts_of_the_tiny_tokenizers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
