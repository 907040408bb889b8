/*
 * The one parser of options: from rows (options.h) to argp's list and help, and from arguments to fields.
 */
#include "cmd/cmd.h"
#include "lib/io/io.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_KEY = 0x200, CHOICE_TEXT = 32, LIST_TEXT = 512 };

/* A row of this command. */
struct active {
	const struct qd_option *row;
	void *into;
	bool required, given;
	const char *said; /* what was given to a `call`, which may change it */
};
struct parsing {
	struct active *options;
	size_t n;
	struct qd_arena texts; /* of the help */
};

static enum qd_status add_text(struct qd_texts *list, const char *text)
{
	enum qd_status st;

	QD_PUSH(st, list->items, list->n, list->cap, text);
out:
	return st;
}

void qd_texts_release(struct qd_texts *list)
{
	free(list->items);
	*list = (struct qd_texts){ 0 };
}

/* In the words that argp has for what it finds itself. */
void qd_usage(const char *fmt, ...)
{
	const char *name = program_invocation_short_name;
	char text[2048], shown[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	qd_escape(shown, sizeof(shown), text);
	fprintf(stderr, "%s: %s", name, shown);
	fprintf(stderr, "\nTry `%s --help' or `%s --usage' for more information.\n", name, name);
	exit(QD_EXIT_USAGE);
}

/* ---- fields ---- */

static void *field(const struct active *o)
{
	return (char *)o->into + o->row->at;
}

static void store_integer(const struct active *o, int64_t value)
{
	switch (o->row->type) {
	case QD_FIELD_BOOL:
		*(bool *)field(o) = value != 0;
		break;
	case QD_FIELD_INT:
		*(int *)field(o) = (int)value;
		break;
	case QD_FIELD_ENUM:
		*(unsigned *)field(o) = (unsigned)value;
		break;
	case QD_FIELD_INT64:
	case QD_FIELD_UINT64:
		*(int64_t *)field(o) = value;
		break;
	default:
		assert(!"an option's field is no integer");
	}
}

static int64_t integer_of(const struct active *o)
{
	switch (o->row->type) {
	case QD_FIELD_BOOL:
		return *(const bool *)field(o);
	case QD_FIELD_INT:
		return *(const int *)field(o);
	case QD_FIELD_ENUM:
		return *(const unsigned *)field(o);
	default:
		return *(const int64_t *)field(o);
	}
}

/* ---- choices ---- */

/* The text of choice `i`, which may be in `buffer` (CHOICE_TEXT bytes); NULL behind the last. */
static const char *choice(const struct qd_option *o, size_t i, char *buffer)
{
	if (o->names != NULL)
		return o->names[i];
	if (o->name_at != NULL)
		return o->name_at(i);
	if (o->values == NULL || o->values[i] == QD_VALUES_END)
		return NULL;
	if (o->kind != QD_OPT_DTYPE) {
		snprintf(buffer, CHOICE_TEXT, "%d", o->values[i]);
		return buffer;
	}
	snprintf(buffer, CHOICE_TEXT, "%s", qd_dtype_name((enum qd_dtype)o->values[i]));
	for (char *c = buffer; *c != '\0'; c++)
		*c = (char)tolower((unsigned char)*c);
	return buffer;
}

static int64_t choice_value(const struct qd_option *o, size_t i)
{
	return o->values != NULL ? o->values[i] : o->low + (int64_t)i;
}

/* All choices; `text` has LIST_TEXT bytes. */
static char *list_choices(const struct qd_option *o, const char *between, char *text)
{
	char buffer[CHOICE_TEXT];
	const char *name;

	text[0] = '\0';
	for (size_t i = 0; (name = choice(o, i, buffer)) != NULL; i++) {
		size_t used = strlen(text);
		snprintf(text + used, LIST_TEXT - used, "%s%s", i > 0 ? between : "", name);
	}
	return text;
}

enum qd_status qd_option_choice(const struct qd_option *o, const char *arg, size_t *index)
{
	char buffer[CHOICE_TEXT], list[LIST_TEXT];
	const char *name;

	for (size_t i = 0; (name = choice(o, i, buffer)) != NULL; i++) {
		const char *colon = strchr(name, ':');
		*index = i;
		if (colon != NULL ? strncmp(arg, name, (size_t)(colon + 1 - name)) == 0 : strcmp(arg, name) == 0)
			return QD_OK;
	}
	return qd_fail(QD_EINPUT, "--%s is '%s', needs one of %s", o->name, arg, list_choices(o, ", ", list));
}

/* ---- numbers ---- */

enum qd_status qd_option_int(const struct qd_option *o, const char *arg, int64_t low, int64_t high, int64_t *out)
{
	char *end = NULL;

	errno = 0;
	*out = strtoll(arg, &end, 10);
	if (errno != 0 || end == arg || *end != '\0' || *out < low || *out > high)
		return qd_fail(QD_EINPUT, "--%s is '%s', needs a whole number from %lld to %lld", o->name, arg, (long long)low,
			(long long)high);
	return QD_OK;
}

static enum qd_status take_number(const struct qd_option *o, const char *arg, double *out)
{
	char *end = NULL;
	double value = strtod(arg, &end);

	if (end == arg || *end != '\0' || !(value >= o->from && value <= o->to))
		return qd_fail(QD_EINPUT, "--%s is '%s', needs a number from %g to %g", o->name, arg, o->from, o->to);
	*out = value;
	return QD_OK;
}

/* ---- one option ---- */

static enum qd_status take_choice(const struct active *o, const char *arg)
{
	size_t i;
	enum qd_status st = qd_option_choice(o->row, arg, &i);

	if (st == QD_OK && o->row->type == QD_FIELD_TEXT)
		*(const char **)field(o) = arg;
	else if (st == QD_OK)
		store_integer(o, choice_value(o->row, i));
	return st;
}

static enum qd_status take(const struct active *o, char *arg)
{
	int64_t whole;
	enum qd_status st = QD_OK;

	switch (o->row->kind) {
	case QD_OPT_FLAG:
		*(bool *)field(o) = true;
		break;
	case QD_OPT_REPEAT:
		++*(int *)field(o);
		break;
	case QD_OPT_INT:
		st = qd_option_int(o->row, arg, o->row->low, o->row->high, &whole);
		if (st == QD_OK)
			store_integer(o, whole);
		break;
	case QD_OPT_NUMBER:
		return take_number(o->row, arg, field(o));
	case QD_OPT_TEXT:
	case QD_OPT_ARGUMENT:
		*(const char **)field(o) = arg;
		break;
	case QD_OPT_TEXTS:
		return add_text(field(o), arg);
	case QD_OPT_CHOICE:
	case QD_OPT_DTYPE:
		return take_choice(o, arg);
	case QD_OPT_CALL:
		return o->row->call(o->into, o->row, arg);
	case QD_OPT_END:
		break;
	}
	return st;
}

/* ---- the command line ---- */

static bool has_value(const struct qd_option *o)
{
	return o->kind != QD_OPT_FLAG && o->kind != QD_OPT_REPEAT;
}

static int key_of(const struct parsing *p, const struct active *o)
{
	return o->row->letter != '\0' ? o->row->letter : FIRST_KEY + (int)(o - p->options);
}

/* What the value is called: the choices, or what the row says, or both where other texts are taken as well. */
static const char *value_text(struct parsing *p, const struct qd_option *o)
{
	char list[LIST_TEXT];

	if (!has_value(o))
		return NULL;
	if (o->kind == QD_OPT_CALL || list_choices(o, "|", list)[0] == '\0')
		return o->arg;
	return o->arg != NULL ? qd_arena_strf(&p->texts, "%s|%s", list, o->arg) : qd_arena_strf(&p->texts, "%s", list);
}

/* How a missing option is asked for: "--base PATH", "-o PATH", "a FILE". */
static const char *spelled(struct parsing *p, const struct qd_option *o)
{
	const char *value = value_text(p, o);

	if (o->kind == QD_OPT_ARGUMENT)
		return qd_arena_strf(&p->texts, "a %s", value);
	if (o->letter != '\0')
		return qd_arena_strf(&p->texts, "-%c %s", o->letter, value);
	return qd_arena_strf(&p->texts, "--%s %s", o->name, value);
}

static bool is_given(const struct parsing *p, const struct active *o)
{
	for (size_t i = 0; i < p->n && !o->given; i++) {
		const struct active *other = &p->options[i];
		if (other->given && other->row->kind != QD_OPT_CALL && o->row->kind != QD_OPT_CALL && field(other) == field(o))
			return true;
	}
	return o->given;
}

static void check_required(struct parsing *p)
{
	const char *missing = NULL;

	for (size_t i = 0; i < p->n; i++) {
		const struct active *o = &p->options[i];
		if (o->required && !is_given(p, o))
			missing = missing == NULL ? spelled(p, o->row)
						  : qd_arena_strf(&p->texts, "%s, %s", missing, spelled(p, o->row));
	}
	if (missing != NULL)
		qd_usage("needs %s", missing);
}

static error_t take_given(struct parsing *p, struct active *o, char *arg)
{
	enum qd_status st = QD_OK;

	if (o->row->kind == QD_OPT_CALL) {
		o->said = qd_arena_strdup(&p->texts, arg);
		st = o->said != NULL ? QD_OK : QD_ENOMEM;
	}
	if (st == QD_OK)
		st = take(o, arg);
	o->given = true;
	if (st != QD_OK && st != QD_ENOMEM)
		qd_usage("%s", qd_message());
	return st == QD_OK ? 0 : ENOMEM;
}

static error_t take_argument(struct parsing *p, char *arg)
{
	struct active *o = NULL;

	for (size_t i = 0; i < p->n; i++)
		if (p->options[i].row->kind == QD_OPT_ARGUMENT)
			o = &p->options[i];
	if (o == NULL)
		qd_usage("unexpected argument '%s'", arg);
	if (o->given)
		qd_usage("unexpected argument '%s', needs one %s%s", arg, o->row->arg, o->required ? "" : " at most");
	return take_given(p, o, arg);
}

static error_t parse_key(int key, char *arg, struct argp_state *state)
{
	struct parsing *p = state->input;

	if (key == ARGP_KEY_ARG)
		return take_argument(p, arg);
	for (size_t i = 0; i < p->n; i++)
		if (key == key_of(p, &p->options[i]))
			return take_given(p, &p->options[i], arg);
	if (key == ARGP_KEY_END)
		check_required(p);
	return key == ARGP_KEY_END ? 0 : ARGP_ERR_UNKNOWN;
}

/* ---- the help ---- */

/* What is in the field before anything is parsed; NULL where that is nothing to tell. */
static const char *default_text(struct parsing *p, const struct active *o)
{
	char buffer[CHOICE_TEXT];
	const char *name;

	switch (o->row->kind) {
	case QD_OPT_INT:
		return qd_arena_strf(&p->texts, "%lld", (long long)integer_of(o));
	case QD_OPT_NUMBER:
		return qd_arena_strf(&p->texts, "%g", *(const double *)field(o));
	case QD_OPT_TEXT:
		return *(const char *const *)field(o);
	case QD_OPT_CHOICE:
	case QD_OPT_DTYPE:
		if (o->row->type == QD_FIELD_TEXT)
			return *(const char *const *)field(o);
		for (size_t i = 0; (name = choice(o->row, i, buffer)) != NULL; i++)
			if (choice_value(o->row, i) == integer_of(o))
				return qd_arena_strf(&p->texts, "%s", name);
		return NULL;
	default:
		return NULL;
	}
}

static const char *help_text(struct parsing *p, const struct active *o)
{
	const struct qd_option *row = o->row;
	char list[LIST_TEXT];
	const char *text = row->help, *value = o->required || row->absent != NULL ? NULL : default_text(p, o);

	if (text == NULL)
		return NULL;
	if (row->kind == QD_OPT_CALL && list_choices(row, ", ", list)[0] != '\0')
		text = qd_arena_strf(&p->texts, "%s: %s", text, list);
	if (o->required)
		return qd_arena_strf(&p->texts, "%s (required)", text);
	if (row->absent != NULL && row->absent[0] != '\0')
		return qd_arena_strf(&p->texts, "%s (default: %s)", text, row->absent);
	return value != NULL ? qd_arena_strf(&p->texts, "%s (default %s)", text, value) : text;
}

/* What stands behind the command's name: what it needs, by one name. */
static const char *arguments_text(struct parsing *p)
{
	const char *text = "", *argument = NULL;

	for (size_t i = 0; i < p->n; i++) {
		const struct active *o = &p->options[i];
		bool again = false;
		for (size_t k = 0; k < i && o->row->kind != QD_OPT_CALL; k++)
			again |= p->options[k].required && field(&p->options[k]) == field(o);
		if (o->row->kind == QD_OPT_ARGUMENT)
			argument = o->required ? o->row->arg : qd_arena_strf(&p->texts, "[%s]", o->row->arg);
		else if (o->required && !again)
			text = qd_arena_strf(&p->texts, "%s%s%s", text, text[0] != '\0' ? " " : "", spelled(p, o->row));
	}
	return argument != NULL ? qd_arena_strf(&p->texts, "%s%s%s", argument, text[0] != '\0' ? " " : "", text) : text;
}

/* ---- what the output was made from ---- */

/* What is told of an option; NULL: nothing. "olss:FILE" is "olss", another text than the choices a file. */
static const char *told_text(struct parsing *p, const struct active *o)
{
	const struct qd_option *row = o->row;
	char buffer[CHOICE_TEXT];
	const char *name, *text;
	bool is_choice = false;

	if (row->untold || (row->absent != NULL && !is_given(p, o)))
		return NULL;
	if (row->kind == QD_OPT_FLAG)
		return *(const bool *)field(o) ? "true" : NULL;
	text = row->kind == QD_OPT_CALL ? o->said : default_text(p, o);
	for (size_t i = 0; text != NULL && (name = choice(row, i, buffer)) != NULL; i++) {
		const char *colon = strchr(name, ':');

		if (colon != NULL && strncmp(text, name, (size_t)(colon + 1 - name)) == 0)
			return qd_arena_strf(&p->texts, "%.*s", (int)(colon - name), name);
		is_choice |= strcmp(text, name) == 0;
	}
	return row->kind == QD_OPT_TEXT && choice(row, 0, buffer) != NULL && !is_choice ? NULL : text;
}

static enum qd_status tell(struct parsing *p, struct qd_provenance *made)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < p->n; i++) {
		const char *text = told_text(p, &p->options[i]);

		if (text != NULL)
			st = qd_provenance_option(made, p->options[i].row->name, text);
	}
	return st;
}

/* ---- all of it ---- */

/* The types of field that each kind writes, as bits. */
static const unsigned fits[] = {
	[QD_OPT_FLAG] = 1u << QD_FIELD_BOOL,
	[QD_OPT_REPEAT] = 1u << QD_FIELD_INT,
	[QD_OPT_INT] = 1u << QD_FIELD_INT | 1u << QD_FIELD_INT64 | 1u << QD_FIELD_UINT64,
	[QD_OPT_NUMBER] = 1u << QD_FIELD_DOUBLE,
	[QD_OPT_TEXT] = 1u << QD_FIELD_TEXT,
	[QD_OPT_TEXTS] = 1u << QD_FIELD_TEXTS,
	[QD_OPT_CHOICE] = 1u << QD_FIELD_BOOL | 1u << QD_FIELD_INT | 1u << QD_FIELD_ENUM | 1u << QD_FIELD_TEXT,
	[QD_OPT_DTYPE] = 1u << QD_FIELD_ENUM,
	[QD_OPT_CALL] = ~0u,
	[QD_OPT_ARGUMENT] = 1u << QD_FIELD_TEXT,
};

/* The rows of this command. */
static enum qd_status collect(struct parsing *p, const struct qd_options *options, size_t n, unsigned takes, unsigned needs)
{
	size_t cap = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < n; i++)
		for (const struct qd_option *row = options[i].table; row->kind != QD_OPT_END; row++) {
			struct active o = { .row = row, .into = options[i].into };
			o.required = row->required || ((row->bit & needs) != 0 && has_value(row));
			assert((fits[row->kind] >> row->type & 1) != 0);
			if (row->bit == 0 || (row->bit & takes) != 0)
				QD_PUSH(st, p->options, p->n, cap, o);
		}
out:
	return st;
}

enum qd_status qd_option_texts(const struct qd_options *options, size_t n, unsigned takes, unsigned needs, struct qd_arena *arena,
	struct qd_option_text **list, size_t *n_list)
{
	struct parsing p = { 0 };
	enum qd_status st;

	*n_list = 0;
	*list = NULL;
	QD_TRY(st, collect(&p, options, n, takes, needs));
	*list = calloc(p.n, sizeof(**list));
	if (*list == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < p.n; i++) {
		const struct active *o = &p.options[i];
		(*list)[(*n_list)++] = (struct qd_option_text){ o->row, value_text(&p, o->row), help_text(&p, o), o->required };
	}
	*arena = p.texts;
	p.texts = (struct qd_arena){ 0 };
out:
	free(p.options);
	qd_arena_release(&p.texts);
	return st;
}

/* The same as argp's list, with an empty end. A group for each keeps their order, which argp would make that of the alphabet. */
static struct argp_option *list_options(struct parsing *p)
{
	struct argp_option *list = calloc(p->n + 1, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; i < p->n && list != NULL; i++) {
		const struct active *o = &p->options[i];
		if (o->row->kind != QD_OPT_ARGUMENT) {
			list[n] = (struct argp_option){ o->row->name, key_of(p, o), value_text(p, o->row), 0, help_text(p, o),
				(int)n + 1 };
			n++;
		}
	}
	return list;
}

void qd_options_parse(int argc, char **argv, const char *doc, const struct qd_options *options, size_t n, unsigned takes,
	unsigned needs, struct qd_provenance *made)
{
	struct parsing p = { 0 };
	struct argp argp = { .parser = parse_key, .doc = doc };
	enum qd_status st = collect(&p, options, n, takes, needs);
	struct argp_option *list = st == QD_OK ? list_options(&p) : NULL;

	error_t error = ENOMEM;

	argp.options = list;
	argp.args_doc = arguments_text(&p);
	if (list != NULL)
		error = argp_parse(&argp, argc, argv, 0, NULL, &p);
	if (error == 0 && made != NULL && tell(&p, made) != QD_OK)
		error = ENOMEM;
	if (error != 0) {
		fprintf(stderr, "%s: %s\n", argv[0], strerror(error));
		exit(QD_EXIT_FAILED);
	}
	free(list);
	free(p.options);
	qd_arena_release(&p.texts);
}
