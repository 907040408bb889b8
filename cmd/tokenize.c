/*
 * quad tokenize: prompts to the ids that a text encoder takes, line by line. In: {"text": "a cat"}; out: {"ids": [...], "n": 4},
 * and "untruncated" where the text did not fit.
 */
#include "cmd/cmd.h"
#include "lib/tokenizer/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char doc[] =
	"Print the token ids of prompts.\v"
	"Reads lines {\"text\": \"...\"} from FILE or standard input; other fields are ignored. For each one prints a line "
	"{\"ids\": "
	"[...], \"n\": N}: the ids padded or cut to the tokenizer's length, and how many of them come before the pads. Where the "
	"text was "
	"cut, \"untruncated\" says how many ids it has. A line that is not so ends the program with exit code 3 and its number.";

struct tokenize {
	const char *folder, *path; /* path NULL: standard input */
	int32_t *ids;
	size_t length;
};

#define FIELD(field) QD_FIELD(struct tokenize, field)
static const struct qd_option table[] = {
	{ NULL, QD_OPT_ARGUMENT, FIELD(path), .arg = "FILE" },
	{ "tokenizer", QD_OPT_TEXT, FIELD(folder), .required = true, .arg = "DIR",
		.help = "a tokenizer folder, or a pipeline folder with tokenizer/ in it" },
	{ 0 },
};

/* ---- lines ---- */

static enum qd_status print_ids(const struct tokenize *o, size_t n)
{
	size_t kept = n < o->length ? n : o->length;

	fputs("{\"ids\": [", stdout);
	for (size_t i = 0; i < o->length; i++)
		qd_print(i ? ", %d" : "%d", o->ids[i]);
	qd_print("], \"n\": %zu", kept);
	if (kept < n)
		qd_print(", \"untruncated\": %zu", n);
	/* At once: the lines may be a conversation. */
	if (puts("}") < 0 || fflush(stdout) != 0)
		return qd_fail(QD_EIO, "cannot write to standard output: %s", strerror(errno));
	return QD_OK;
}

static enum qd_status encode_line(const struct tokenize *o, const struct qd_tokenizer *tokenizer, const char *line, size_t bytes)
{
	json_t *value = NULL;
	size_t n;
	enum qd_status st;

	QD_TRY(st, qd_json_parse("JSON", line, bytes, &value));
	const json_t *text = json_object_get(value, "text");
	if (!json_is_string(text))
		QD_TRY(st, qd_fail(QD_EINPUT, "%s", text != NULL ? "field 'text' is not a text" : "has no field 'text'"));
	QD_TRY(st, qd_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), o->ids, &n));
	QD_TRY(st, print_ids(o, n));
out:
	json_decref(value);
	return st;
}

static enum qd_status encode_lines(const struct tokenize *o, const struct qd_tokenizer *tokenizer, FILE *in)
{
	const char *name = o->path != NULL ? o->path : "standard input";
	char *line = NULL;
	size_t room = 0;
	ssize_t bytes;
	enum qd_status st = QD_OK;

	for (size_t number = 1; errno = 0, (bytes = getline(&line, &room, in)) >= 0; number++) {
		size_t kept = (size_t)bytes - (bytes > 0 && line[bytes - 1] == '\n');
		QD_TRY(st, qd_prefix(encode_line(o, tokenizer, line, kept), "'%s', line %zu", name, number));
	}
	if (!feof(in))
		QD_TRY(st, qd_fail(QD_EIO, "cannot read '%s': %s", name, strerror(errno)));
out:
	free(line);
	return st;
}

/* ---- the whole ---- */

static enum qd_status open_tokenizer(struct qd_tokenizer **tokenizer, const char *folder)
{
	struct qd_arena arena = { 0 };
	const char *inside = qd_arena_strf(&arena, "%s/tokenizer", folder);
	enum qd_status st = inside != NULL ? QD_OK : QD_ENOMEM;

	if (st == QD_OK)
		st = qd_tokenizer_open(tokenizer, qd_is_directory(inside) ? inside : folder);
	qd_arena_release(&arena);
	return st;
}

static enum qd_status tokenize(struct tokenize *o)
{
	struct qd_tokenizer *tokenizer = NULL;
	FILE *in = stdin;
	enum qd_status st;

	QD_TRY(st, open_tokenizer(&tokenizer, o->folder));
	o->length = qd_tokenizer_length(tokenizer);
	o->ids = calloc(o->length, sizeof(*o->ids));
	if (o->ids == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory (%zu ids)", o->length));
	if (o->path != NULL && (in = fopen(o->path, "r")) == NULL)
		QD_TRY(st, qd_fail(QD_EIO, "cannot read '%s': %s", o->path, strerror(errno)));
	QD_TRY(st, encode_lines(o, tokenizer, in));
out:
	if (in != NULL && in != stdin)
		fclose(in);
	free(o->ids);
	qd_tokenizer_free(tokenizer);
	return st;
}

int qd_cmd_tokenize(int argc, char **argv)
{
	struct tokenize o = { 0 };
	struct qd_common common = { 0 };
	enum qd_status st;

	qd_parse(argc, argv, doc, &(struct qd_options){ table, &o }, 1, 0, 0, &common);
	st = tokenize(&o);
	qd_common_release(&common);
	return qd_finish("tokenize", st);
}
