/*
 * cmd/options.c: every kind of option into every type of field, what is refused and in which words, and the help. The parser ends
 * the program on wrong usage, so each parse runs in a process of its own where that is expected.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cmd/cmd.h"

enum shade { DARK, MIDDLE, LIGHT };
struct inner {
	int64_t long_side;
	uint64_t seed;
};
struct settings {
	bool fast, second;
	int level, small, bits;
	enum shade shade;
	enum qd_dtype dtype;
	struct inner inner;
	double rate;
	const char *path, *way, *word;
	struct qd_texts files;
	char called[32];
};

static enum qd_status call(void *into, const struct qd_option *option, char *arg)
{
	struct settings *s = into;
	size_t i;

	snprintf(s->called, sizeof(s->called), "%s", arg);
	return qd_option_choice(option, arg, &i);
}

static const char *way_name(size_t i)
{
	static const char *const names[] = { "straight", "bent", "file:FILE" };

	return i < QD_COUNT(names) ? names[i] : NULL;
}

enum { BIT_SEED = 1, BIT_LONG = 2 };
#define FIELD(field) QD_FIELD(struct settings, field)
static const char *const shades[] = { "dark", "middle", "light", NULL }, *const order[] = { "first", "second", NULL };
static const int bits[] = { 0, 8, 16, QD_VALUES_END }, dtypes[] = { QD_F32, QD_BF16, QD_VALUES_END };
static const struct qd_option table[] = {
	{ NULL, QD_OPT_ARGUMENT, FIELD(word), .arg = "WORD" },
	{ "fast", QD_OPT_FLAG, FIELD(fast), .letter = 'f', .help = "make haste" },
	{ "level", QD_OPT_REPEAT, FIELD(level), .letter = 'l', .help = "go further" },
	{ "small", QD_OPT_INT, FIELD(small), .low = -3, .high = 9, .arg = "N", .help = "a small one" },
	{ "order", QD_OPT_CHOICE, FIELD(second), .names = order, .help = "which comes" },
	{ "bits", QD_OPT_CHOICE, FIELD(bits), .values = bits, .help = "how many" },
	{ "shade", QD_OPT_CHOICE, FIELD(shade), .names = shades, .help = "how bright" },
	{ "upper", QD_OPT_CHOICE, FIELD(small), .names = order, .low = 5, .help = "from five on" },
	{ "dtype", QD_OPT_DTYPE, FIELD(dtype), .values = dtypes, .help = "of what is written" },
	{ "rate", QD_OPT_NUMBER, FIELD(rate), .from = 0.5, .to = 2, .arg = "X", .help = "how fast", .absent = "as it comes" },
	{ "way", QD_OPT_CHOICE, FIELD(way), .name_at = way_name, .help = "where to" },
	{ "path", QD_OPT_TEXT, FIELD(path), .names = shades, .arg = "FILE", .required = true, .help = "what from" },
	{ "old-path", QD_OPT_TEXT, FIELD(path), .arg = "FILE", .help = "as --path" },
	{ "file", QD_OPT_TEXTS, FIELD(files), .arg = "FILE", .help = "one more" },
	{ "call", QD_OPT_CALL, .call = call, .name_at = way_name, .arg = "NAME:N", .help = "somewhere; NAME", .absent = "" },
	{ 0 },
};
#undef FIELD
#define FIELD(field) QD_FIELD(struct inner, field)
static const struct qd_option inner_table[] = {
	{ "seed", QD_OPT_INT, FIELD(seed), .bit = BIT_SEED, .high = INT64_MAX, .arg = "N", .help = "of random numbers" },
	{ "long", QD_OPT_INT, FIELD(long_side), .bit = BIT_LONG, .low = 1, .high = 1 << 20, .arg = "N", .help = "the long side" },
	{ 0 },
};

/* Parses words that blanks separate. */
static void parse(struct settings *s, const char *words, unsigned takes, unsigned needs)
{
	static char line[512], name[] = "quad test";
	const struct qd_options options[] = { { table, s }, { inner_table, &s->inner } };
	char *argv[32] = { name }, *rest = line;
	int argc = 1;

	snprintf(line, sizeof(line), "%s", words);
	program_invocation_name = program_invocation_short_name = name;
	for (char *word; (word = strtok_r(rest, " ", &rest)) != NULL; argc++)
		argv[argc] = word;
	argp_err_exit_status = QD_EXIT_USAGE;
	qd_options_parse(argc, argv, "Try options.\vThat is all.", options, QD_COUNT(options), takes, needs, NULL);
}

/* What a process that parses them says on stdout and stderr, and how it ends. */
static const char *said(const char *words, unsigned takes, unsigned needs, int *status)
{
	static char text[8192];
	int ends[2];
	size_t n = 0;
	ssize_t got;
	pid_t child;

	fflush(NULL);
	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		struct settings s = { .small = 7, .bits = 8, .shade = LIGHT, .dtype = QD_F32, .way = "straight" };
		dup2(ends[1], STDOUT_FILENO);
		dup2(ends[1], STDERR_FILENO);
		parse(&s, words, takes, needs);
		_exit(42);
	}
	close(ends[1]);
	while ((got = read(ends[0], text + n, sizeof(text) - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(ends[0]);
	assert_int_equal(waitpid(child, status, 0), child);
	assert_true(WIFEXITED(*status));
	*status = WEXITSTATUS(*status);
	return text;
}

static void takes_every_kind(void **state)
{
	struct settings s = { 0 };

	(void)state;
	parse(&s,
		"-f -ll --level --small=-3 --order second --bits 16 --shade light --dtype bf16 --rate 0.5 --way bent --path a "
		"--file b w --file=c --seed 9223372036854775807 --long 1048576 --call bent",
		BIT_SEED | BIT_LONG, 0);
	assert_true(s.fast);
	assert_int_equal(s.level, 3);
	assert_int_equal(s.small, -3);
	assert_true(s.second);
	assert_int_equal(s.bits, 16);
	assert_int_equal(s.shade, LIGHT);
	assert_int_equal(s.dtype, QD_BF16);
	assert_true(s.rate == 0.5);
	assert_string_equal(s.way, "bent");
	assert_string_equal(s.path, "a");
	assert_string_equal(s.word, "w");
	assert_int_equal(s.files.n, 2);
	assert_string_equal(s.files.items[0], "b");
	assert_string_equal(s.files.items[1], "c");
	assert_true(s.inner.seed == INT64_MAX);
	assert_int_equal(s.inner.long_side, 1 << 20);
	assert_string_equal(s.called, "bent");
	qd_texts_release(&s.files);
}

static void takes_the_later(void **state)
{
	struct settings s = { 0 };

	(void)state;
	parse(&s, "--path a --small 1 --path b --small 2 --order second --order first --way file:x --upper second", 0, 0);
	assert_string_equal(s.path, "b");
	assert_int_equal(s.small, 6); /* of --upper, which begins at five */
	assert_false(s.second);
	assert_string_equal(s.way, "file:x");
}

/* An option is not missing when another one has filled its field. */
static void takes_the_other_name(void **state)
{
	struct settings s = { 0 };

	(void)state;
	parse(&s, "--old-path a", 0, 0);
	assert_string_equal(s.path, "a");
}

static void refuses(void **state)
{
	static const struct {
		const char *words, *text;
		unsigned needs;
	} cases[] = {
		{ "--path a --none", "unrecognized option '--none'", 0 },
		{ "--path", "option '--path' requires an argument", 0 },
		{ "--path a --fast=1", "option '--fast' doesn't allow an argument", 0 },
		{ "--path a --small", "option '--small' requires an argument", 0 },
		{ "--path a --small 10", "--small is '10', needs a whole number from -3 to 9", 0 },
		{ "--path a --small -4", "--small is '-4', needs a whole number from -3 to 9", 0 },
		{ "--path a --small 1.5", "--small is '1.5', needs a whole number from -3 to 9", 0 },
		{ "--path a --small=", "--small is '', needs a whole number from -3 to 9", 0 },
		{ "--path a --seed 9223372036854775808", "--seed is '9223372036854775808', needs a whole number from 0 to", 0 },
		{ "--path a --rate 0.4", "--rate is '0.4', needs a number from 0.5 to 2", 0 },
		{ "--path a --rate nan", "--rate is 'nan', needs a number from 0.5 to 2", 0 },
		{ "--path a --rate 1x", "--rate is '1x', needs a number from 0.5 to 2", 0 },
		{ "--path a --shade pink", "--shade is 'pink', needs one of dark, middle, light", 0 },
		{ "--path a --shade=", "--shade is '', needs one of dark, middle, light", 0 },
		{ "--path a --bits 4", "--bits is '4', needs one of 0, 8, 16", 0 },
		{ "--path a --dtype F32", "--dtype is 'F32', needs one of f32, bf16", 0 },
		{ "--path a --way file", "--way is 'file', needs one of straight, bent, file:FILE", 0 },
		{ "--path a --call up", "--call is 'up', needs one of straight, bent, file:FILE", 0 },
		{ "--path a b c", "unexpected argument 'c', needs one WORD at most", 0 },
		{ "", "needs --path dark|middle|light|FILE", 0 },
		{ "", "needs --path dark|middle|light|FILE, --seed N", BIT_SEED },
		{ "--path a", "needs --seed N", BIT_SEED },
		{ "--path a --long 1", "unrecognized option '--long'", 0 },
	};

	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		int status;
		char want[256];
		const char *text = said(cases[i].words, BIT_SEED, cases[i].needs, &status);
		snprintf(want, sizeof(want), "quad test: %s", cases[i].text);
		if (status != QD_EXIT_USAGE || !qd_starts_with(text, want))
			fail_msg("'%s' ends with %d and '%s', not '%s'", cases[i].words, status, text, want);
		if (strstr(text, "\nTry `quad test --help' or `quad test --usage' for more information.\n") == NULL)
			fail_msg("'%s' does not tell where help is: '%s'", cases[i].words, text);
	}
}

/* In the order of the rows; the defaults are those in the fields, lists come from the rows. */
static void helps(void **state)
{
	static const char *const lines[] = {
		"Usage: quad test [OPTION...] [WORD] --path dark|middle|light|FILE\n",
		"  -f, --fast                 make haste\n",
		"      --small=N              a small one (default 7)\n",
		"      --order=first|second   which comes (default first)\n",
		"      --bits=0|8|16          how many (default 8)\n",
		"      --shade=dark|middle|light   how bright (default light)\n",
		"      --dtype=f32|bf16       of what is written (default f32)\n",
		"      --rate=X               how fast (default: as it comes)\n",
		"      --way=straight|bent|file:FILE\n                             where to (default straight)\n",
		"      --path=dark|middle|light|FILE\n                             what from (required)\n",
		"      --file=FILE            one more\n",
		"      --call=NAME:N          somewhere; NAME: straight, bent, file:FILE\n",
		"      --long=N               the long side (default 0)\n",
		"That is all.\n",
	};
	int status;
	const char *text = said("--help", BIT_LONG, 0, &status), *from = text;

	(void)state;
	assert_int_equal(status, 0);
	for (size_t i = 0; i < QD_COUNT(lines); i++) {
		const char *found = strstr(from, lines[i]);
		if (found == NULL)
			fail_msg("the help has no line '%s' where it belongs: '%s'", lines[i], text);
		from = found;
	}
	assert_null(strstr(text, "--seed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_every_kind),
		cmocka_unit_test(takes_the_later),
		cmocka_unit_test(takes_the_other_name),
		cmocka_unit_test(refuses),
		cmocka_unit_test(helps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
