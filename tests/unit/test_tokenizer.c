/*
 * CLIP's tokenizer: every rule on a vocabulary made here (the byte symbols, a few merges, the two special strings), merging against
 * a plain loop, files that must be refused, and the golden prompts with the real vocabulary.
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

#include "lib/model/tokenizer.h"
#include "tests/unit/scratch.h"

enum { MAX_SYMBOLS = 2048 };

/* The vocabulary: an id is the place in this list. */
static char symbols[MAX_SYMBOLS][40];
static int n_symbols;

static int id_of(const char *symbol, size_t bytes)
{
	for (int i = 0; i < n_symbols; i++)
		if (strlen(symbols[i]) == bytes && memcmp(symbols[i], symbol, bytes) == 0)
			return i;
	return -1;
}

/* The 512 byte symbols, in the order of GPT-2's table: the bytes that stand for themselves, then the others. */
static void start_vocabulary(void)
{
	int n = 0;
	n_symbols = 0;
	for (int round = 0; round < 2; round++)
		for (int b = 0; b < 256; b++) {
			bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
			int point = itself ? b : 256 + n;
			if (itself != (round == 0))
				continue;
			n += !itself;
			if (point < 0x80)
				snprintf(symbols[n_symbols++], 40, "%c", point);
			else
				snprintf(symbols[n_symbols++], 40, "%c%c", 0xc0 | point >> 6, 0x80 | (point & 0x3f));
		}
	for (int i = 0; i < 256; i++, n_symbols++) {
		memcpy(symbols[n_symbols], symbols[i], sizeof(symbols[i]));
		strcat(symbols[n_symbols], "</w>");
	}
}

static const char *folder(void)
{
	const char *path = scratch_path("tokenizer");
	mkdir(path, 0777);
	return path;
}

static void put(const char *name, const char *text)
{
	char path[64];
	snprintf(path, sizeof(path), "tokenizer/%s", name);
	folder();
	if (text != NULL)
		scratch_file(path, text, strlen(text));
	else
		remove(scratch_path(path));
}

static char *vocabulary_text(void)
{
	json_t *object = json_object();
	for (int i = 0; i < n_symbols; i++)
		json_object_set_new(object, symbols[i], json_integer(i));
	char *text = json_dumps(object, 0);
	json_decref(object);
	return text;
}

/* Writes a folder: `merges` are lines; config and map may be NULL. */
static void write_folder(const char *merges, const char *config, const char *map)
{
	static char lines[1 << 16];
	char *text;

	start_vocabulary();
	snprintf(lines, sizeof(lines), "#version: 0.2\n%s", merges);
	for (const char *line = merges; *line; line = strchr(line, '\n') + 1) {
		size_t left = strcspn(line, " "), right = strcspn(line + left + 1, "\n");
		char joined[40];
		snprintf(joined, sizeof(joined), "%.*s%.*s", (int)left, line, (int)right, line + left + 1);
		if (id_of(joined, strlen(joined)) < 0)
			strcpy(symbols[n_symbols++], joined);
	}
	strcpy(symbols[n_symbols++], "<|startoftext|>");
	strcpy(symbols[n_symbols++], "<|endoftext|>");
	text = vocabulary_text();
	put("vocab.json", text);
	free(text);
	put("merges.txt", lines);
	put("tokenizer_config.json", config);
	put("special_tokens_map.json", map);
	put("added_tokens.json", NULL);
	put("tokenizer.json", NULL);
}

static struct qd_tokenizer *opened(void)
{
	struct qd_tokenizer *t;
	if (qd_tokenizer_open(&t, folder()) != QD_OK)
		fail_msg("%s", qd_message());
	return t;
}

/* `want`: symbols with a space between, or #id; what must come out between start and end. */
static void check(const struct qd_tokenizer *t, const char *text, const char *want)
{
	size_t length = qd_tokenizer_length(t), n, at = 1;
	int32_t *ids = calloc(length, sizeof(*ids));

	assert_int_equal(qd_tokenizer_encode(t, text, strlen(text), ids, &n), QD_OK);
	assert_int_equal(ids[0], id_of("<|startoftext|>", 15));
	for (const char *word = want; *word; at++) {
		size_t bytes = strcspn(word, " ");
		int id = word[0] == '#' && bytes > 1 ? atoi(word + 1) : id_of(word, bytes);
		assert_true(id >= 0 && at < length);
		if (ids[at] != id)
			fail_msg("'%s': id %zu is %d ('%s'), needs %d ('%.*s')", text, at, ids[at],
				ids[at] < n_symbols ? symbols[ids[at]] : "", id, (int)bytes, word);
		word += bytes + (word[bytes] == ' ');
	}
	assert_int_equal(ids[at], id_of("<|endoftext|>", 13));
	assert_int_equal(n, at + 1);
	free(ids);
}

static const char two_roles[] = "{\"bos_token\": \"<|startoftext|>\", \"eos_token\": \"<|endoftext|>\"}";

/* ---- rules ---- */

static void bytes_become_symbols(void **state)
{
	(void)state;
	write_folder("", NULL, NULL);
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
	write_folder("b c\na b\na a\nbc d</w>\naa a</w>\n", NULL, NULL);
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
	write_folder("' s</w>\nr e</w>\n' re</w>\n", NULL, NULL);
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
	write_folder("", "{\"eos_token\": \"a\", \"unk_token\": \"a\", \"pad_token\": \"a\"}", NULL);
	struct qd_tokenizer *t;
	int32_t ids[77];
	size_t n;

	assert_int_equal(qd_tokenizer_open(&t, folder()), QD_OK);
	assert_int_equal(qd_tokenizer_encode(t, "<|endoftext|>'s", 15, ids, &n), QD_OK);
	/* "<|", "endoftext", "|>", "'s": as one run of signs the end would be "|>'" */
	const char *const want[] = { "<", "|</w>", "e", "n", "d", "o", "f", "t", "e", "x", "t</w>", "|", "></w>", "'", "s</w>" };
	assert_int_equal(n, QD_COUNT(want) + 2);
	for (size_t i = 0; i < QD_COUNT(want); i++)
		assert_int_equal(ids[i + 1], id_of(want[i], strlen(want[i])));
	qd_tokenizer_free(t);
}

static void text_is_normalized(void **state)
{
	(void)state;
	write_folder("", NULL, NULL);
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
	write_folder("", NULL, NULL);
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
	write_folder("", two_roles, NULL);
	struct qd_tokenizer *t = opened();
	check(t, "a<|endoftext|>b", "a</w> <|endoftext|> b</w>");
	check(t, "<|STARTOFTEXT|>", "< |</w> s t a r t o f t e x t</w> | ></w>");
	qd_tokenizer_free(t);
}

static void normalized_special_strings_are_cut_in_any_case(void **state)
{
	(void)state;
	write_folder("",
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
	write_folder("", "{\"pad_token\": \"!\"}", NULL);
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
	write_folder("",
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
	write_folder("", NULL, "{\"additional_special_tokens\": [\"<Own>\"]}");
	put("added_tokens.json", "{\"<Toy>\": 514}");
	struct qd_tokenizer *t = opened();
	check(t, "<toy> <own><Own>", "#514 <</w> o w n</w> ></w> #515");
	qd_tokenizer_free(t);
}

static uint32_t pad_of(const char *config, const char *map)
{
	int32_t ids[77];
	write_folder("", config, map);
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
	write_folder("", "{\"model_max_length\": 5}", NULL);
	struct qd_tokenizer *t = opened();
	int32_t ids[5];
	size_t n;
	assert_int_equal(qd_tokenizer_length(t), 5);
	assert_int_equal(qd_tokenizer_encode(t, "abcd", 4, ids, &n), QD_OK);
	assert_int_equal(n, 6);
	const char *const want[] = { "<|startoftext|>", "a", "b", "c", "<|endoftext|>" };
	for (size_t i = 0; i < 5; i++)
		assert_int_equal(ids[i], id_of(want[i], strlen(want[i])));
	qd_tokenizer_free(t);
}

static size_t length_of(const char *config)
{
	write_folder("", config, NULL);
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
		if (strchr(left, '/') || strlen(left) + strlen(right) > 12 || strstr(lines, line + 1) == lines ||
			strstr(lines, line))
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
		pairs[n][0] = id_of(line, left);
		pairs[n][1] = id_of(line + left + 1, right);
		pairs[n][2] = id_of(joined, strlen(joined));
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
		write_folder(lines, NULL, NULL);
		int n_pairs = read_pairs(lines, pairs);
		struct qd_tokenizer *t = opened();
		for (int trial = 0; trial < 50; trial++) {
			char text[76];
			int32_t ids[77];
			size_t length = (size_t)(1 + rand() % 75), n;
			for (size_t i = 0; i < length; i++) {
				text[i] = (char)('a' + rand() % 3);
				word[i] = id_of(text + i, 1) + (i + 1 == length ? 256 : 0);
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
	write_folder("a a\naa aa\naaaa aaaa\n", NULL, NULL);
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
	assert_int_equal(ids[2], id_of("£", 2));
	assert_int_equal(ids[4], id_of("£", 2));
	free(text);
	qd_tokenizer_free(t);
}

/* ---- tokenizer.json ---- */

static void write_tokenizer_json(const char *merges, const char *model, const char *added)
{
	write_folder("a b\nab c</w>\n", NULL, NULL);
	char *vocabulary = vocabulary_text();
	static char text[1 << 16];
	snprintf(text, sizeof(text), "{\"model\": {%s, \"vocab\": %s, \"merges\": %s}, \"added_tokens\": %s}", model, vocabulary,
		merges, added);
	put("tokenizer.json", text);
	put("vocab.json", NULL);
	put("merges.txt", NULL);
	free(vocabulary);
}

static void one_file_holds_all(void **state)
{
	(void)state;
	static const char *const merges[] = { "[[\"a\", \"b\"], [\"ab\", \"c</w>\"]]", "[\"a b\", \"ab c</w>\"]" };
	for (size_t i = 0; i < QD_COUNT(merges); i++) {
		write_tokenizer_json(merges[i], "\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\"",
			"[{\"id\": 514, \"content\": \"<|startoftext|>\", \"normalized\": true},"
			" {\"id\": 515, \"content\": \"<|endoftext|>\", \"normalized\": false},"
			" {\"id\": 516, \"content\": \"<x>\", \"normalized\": false}]");
		struct qd_tokenizer *t = opened();
		check(t, "abc ab<|STARTOFTEXT|><x><X>", "abc</w> a b</w> <|startoftext|> #516 <</w> x</w> ></w>");
		qd_tokenizer_free(t);
	}
}

/* ---- refusals ---- */

static void check_refused(enum qd_status code, const char *message)
{
	struct qd_tokenizer *t;
	assert_int_equal(qd_tokenizer_open(&t, folder()), code);
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
	write_folder("", NULL, NULL);
	put("vocab.json", NULL);
	check_refused(QD_EINPUT, "' holds no tokenizer, needs vocab.json and merges.txt, or tokenizer.json");
	write_folder("", NULL, NULL);
	put("merges.txt", NULL);
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
		write_folder("", NULL, NULL);
		char *text = vocabulary_text(), changed[1 << 15], key[40];
		snprintf(key, sizeof(key), "\"%s\": ", cases[i].symbol);
		char *at = strstr(text, key) + strlen(key);
		snprintf(changed, sizeof(changed), "%.*s%s%s", (int)(at - text), text, cases[i].id, at + strcspn(at, ",}"));
		put("vocab.json", changed);
		check_refused(QD_EINPUT, cases[i].message);
		free(text);
	}
	put("vocab.json", "[1]");
	check_refused(QD_EINPUT, "/vocab.json': the vocabulary is not an object of symbols and ids");
	put("vocab.json", "{\"a\": 0}");
	check_refused(QD_EINPUT, "/vocab.json' lacks the symbol 'Ā' of byte 0");
	put("vocab.json", "{\"a\": 0, \"a\": 1}");
	check_refused(QD_EINPUT, "duplicate object key");
	put("vocab.json", "{\"\xff\": 0}");
	check_refused(QD_EINPUT, "unable to decode byte 0xff");
	put("vocab.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
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
		write_folder("a b\n", NULL, NULL);
		put("merges.txt", cases[i].text);
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
			"'normalized' of a special token is neither true nor false" },
		{ QD_EUNSUPPORTED, "{\"eos_token\": {\"content\": \"x\", \"single_word\": true}}", NULL,
			"special token 'x' has 'single_word', only tokens without are supported" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": []}", NULL, "field 'added_tokens_decoder' is not an object" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": {\"x\": \"y\"}}", NULL, "'x' of 'added_tokens_decoder' is no id" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": {\"7\": \"!\"}}", NULL, "'!' has the id 7, the vocabulary gives it 0" },
		{ QD_EINPUT, "{\"added_tokens_decoder\": {\"600\": \"<x>\"}}", NULL,
			"'<x>' has the id 600, the vocabulary gives it 514" },
		{ QD_EINPUT, "{\"model_max_length\": 1}", NULL, "field 'model_max_length' is not a whole number from 2" },
		{ QD_EINPUT, "{\"model_max_length\": 7.5}", NULL, "field 'model_max_length' is not a whole number from 2" },
		{ QD_EINPUT, "{\"model_max_length\": \"77\"}", NULL, "field 'model_max_length' is not a whole number from 2" },
		{ QD_EUNSUPPORTED, "{\"tokenizer_class\": \"T5Tokenizer\"}", NULL,
			"field 'tokenizer_class' is 'T5Tokenizer', only 'CLIPTokenizer' is supported" },
		{ QD_EUNSUPPORTED, "{\"padding_side\": \"left\"}", NULL,
			"field 'padding_side' is 'left', only 'right' is supported" },
		{ QD_EUNSUPPORTED, "{\"truncation_side\": \"left\"}", NULL,
			"field 'truncation_side' is 'left', only 'right' is supported" },
		{ QD_EUNSUPPORTED, "{\"split_special_tokens\": true}", NULL,
			"field 'split_special_tokens' is true, only false is supported" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		write_folder("", cases[i].config, cases[i].map);
		check_refused(cases[i].code, cases[i].message);
	}
	write_folder("", NULL, NULL);
	put("added_tokens.json", "{\"<x>\": \"7\"}");
	check_refused(QD_EINPUT, "/added_tokens.json': the id of '<x>' is not a whole number");
}

static void refuses_a_new_string_where_ids_have_holes(void **state)
{
	(void)state;
	write_folder("", NULL, NULL);
	strcpy(symbols[n_symbols], "hole");
	n_symbols += 2;
	strcpy(symbols[n_symbols - 1], "last");
	memset(symbols[n_symbols - 2], 0, sizeof(symbols[0]));
	char *text = vocabulary_text(), *empty = strstr(text, "\"\": 514, ");
	memmove(empty, empty + 9, strlen(empty + 9) + 1);
	put("vocab.json", text);
	free(text);
	put("tokenizer_config.json", "{\"pad_token\": \"<pad>\"}");
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
			"field 'model.type' is 'Unigram', only 'BPE' is supported" },
		{ QD_EUNSUPPORTED, "[]", "\"end_of_word_suffix\": null", "[]",
			"field 'model.end_of_word_suffix' is not '</w>', CLIP's" },
		{ QD_EINPUT, "{}", "\"type\": \"BPE\"", "[]", "field 'model.merges' is not a list" },
		{ QD_EINPUT, "[\"a b\", 1]", "\"type\": \"BPE\"", "[]", "merge 2: neither a text nor a pair of texts" },
		{ QD_EINPUT, "[[\"a\"]]", "\"type\": \"BPE\"", "[]", "merge 1: neither a text nor a pair of texts" },
		{ QD_EINPUT, "[[\"a\", \"zz\"]]", "\"type\": \"BPE\"", "[]", "merge 1: 'zz' is no symbol of the vocabulary" },
		{ QD_EINPUT, "[]", "\"type\": \"BPE\"", "{}", "field 'added_tokens' is not a list" },
		{ QD_EINPUT, "[]", "\"type\": \"BPE\"", "[{\"content\": \"x\"}]",
			"the 'id' of added token 0 is not a whole number" },
	};
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		write_tokenizer_json(cases[i].merges, cases[i].model, cases[i].added);
		check_refused(cases[i].code, cases[i].message);
	}
	put("tokenizer.json", "{}");
	check_refused(QD_EINPUT, "/tokenizer.json': field 'model' is not an object");
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
		cmocka_unit_test(refuses_folders_without_a_tokenizer),
		cmocka_unit_test(refuses_bad_vocabularies),
		cmocka_unit_test(refuses_bad_merges),
		cmocka_unit_test(refuses_bad_settings),
		cmocka_unit_test(refuses_a_new_string_where_ids_have_holes),
		cmocka_unit_test(refuses_other_kinds_of_tokenizer_json),
		cmocka_unit_test(golden_prompts),
		cmocka_unit_test(golden_prompts_of_the_second_tokenizer),
		cmocka_unit_test(golden_prompts_of_the_tiny_tokenizers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
