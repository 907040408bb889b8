/*
 * Options as tables. A row says how an option is called, what it takes, where that goes and what the help says about it:
 *
 *	static const struct qd_option table[] = {
 *		{ "steps", QD_OPT_INT, QD_FIELD(struct train, options.steps), .low = 1, .high = INT32_MAX, .arg = "N",
 *			.help = "updates" },
 *		{ "schedule", QD_OPT_CHOICE, QD_FIELD(struct train, options.schedule), .names = qd_lr_schedule_names,
 *			.help = "of the learning rate" },
 *		{ 0 },
 *	};
 *
 * One parser walks the rows for everything: values, refusals, what is missing, and the help, which GNU argp prints. Before it runs
 * the fields hold the defaults, which the help tells: "--steps=N  updates (default 1000)". The later of two wins, except in lists.
 */
#ifndef QUAD_CMD_OPTIONS_H
#define QUAD_CMD_OPTIONS_H

#include "lib/base/base.h"

/* Texts of the command line, in order. */
struct qd_texts {
	const char **items;
	size_t n, cap;
};
void qd_texts_release(struct qd_texts *list);

enum qd_option_kind {
	QD_OPT_END,
	QD_OPT_FLAG,     /* bool: no value; given means true */
	QD_OPT_REPEAT,   /* int: no value; how often it was given */
	QD_OPT_INT,      /* an integer: a whole number from `low` to `high` */
	QD_OPT_NUMBER,   /* double: a number from `from` to `to` */
	QD_OPT_TEXT,     /* text: anything; the help tells choices too */
	QD_OPT_TEXTS,    /* struct qd_texts: anything, one more each time */
	QD_OPT_CHOICE,   /* one of them: an integer becomes `low` + its index, or that of `values`; a text the text itself */
	QD_OPT_DTYPE,    /* enum qd_dtype: one of those in `values`, spelled in lower case */
	QD_OPT_CALL,     /* whatever `call` makes of it */
	QD_OPT_ARGUMENT, /* text: the one argument without a name */
};
enum qd_field_type {
	QD_FIELD_OTHER,
	QD_FIELD_BOOL,
	QD_FIELD_INT,
	QD_FIELD_ENUM,
	QD_FIELD_INT64,
	QD_FIELD_UINT64,
	QD_FIELD_DOUBLE,
	QD_FIELD_TEXT,
	QD_FIELD_TEXTS,
};
/* clang-format off */
#define QD_FIELD(type, field) offsetof(type, field), _Generic(((type *)0)->field, \
	bool: QD_FIELD_BOOL, int: QD_FIELD_INT, unsigned: QD_FIELD_ENUM, int64_t: QD_FIELD_INT64, uint64_t: QD_FIELD_UINT64, \
	double: QD_FIELD_DOUBLE, const char *: QD_FIELD_TEXT, struct qd_texts: QD_FIELD_TEXTS, default: QD_FIELD_OTHER)
/* clang-format on */

enum { QD_VALUES_END = -1 };

struct qd_option {
	const char *name; /* without the dashes */
	enum qd_option_kind kind;
	size_t at;
	enum qd_field_type type; /* both are QD_FIELD(struct, field) */
	char letter;             /* the short option, or 0 */
	bool required;           /* two rows that share a field stand in for each other */
	bool untold;             /* left out of the output's provenance: names a file, or shapes no byte */
	unsigned bit;            /* in a table of which commands take a part */
	int64_t low, high;
	double from, to;
	/* Choices: a list with NULL at the end, or a function that returns NULL behind the last; without both, the numbers of
	 * `values`. One such as "olss:FILE" stands for every text that begins with "olss:". */
	const char *const *names;
	const char *(*name_at)(size_t i);
	const int *values; /* QD_VALUES_END at the end */
	const char *arg;   /* how the help calls the value; choices are listed instead */
	const char *help;
	const char *absent; /* what holds without the option, where the field's value does not say it; "": nothing to tell */
	/* `into` is the struct that the table is for. QD_EINPUT is wrong usage; see qd_option_int and qd_option_choice. */
	enum qd_status (*call)(void *into, const struct qd_option *option, char *arg);
};

/* A table and the struct that its fields are in. */
struct qd_options {
	const struct qd_option *table;
	void *into;
};
/* What is told about an option; texts live in the arena that they were made in. */
struct qd_option_text {
	const struct qd_option *row;
	const char *value; /* what it takes: choices and names of anything else, between '|'; NULL: nothing */
	const char *help;  /* with what holds without it */
	bool required;
};
/* The rows of a command in the order of its tables, with the fields' defaults: QD_ENOMEM. The caller frees the list. */
QD_CHECK enum qd_status qd_option_texts(const struct qd_options *options, size_t n, unsigned takes, unsigned needs,
	struct qd_arena *arena, struct qd_option_text **list, size_t *n_list);
/*
 * Parses the command line, or exits with QD_EXIT_USAGE and a message. Of rows with a bit only those in `takes` belong to the
 * command, and those in `needs` that take a value are required. The help shows the tables and their rows in their order, and `doc`:
 * what stands before and, after a \v, behind the options. What shapes the output is added to `made` (may be NULL), each as it is in
 * the end, given or not; of a text or choice that names a file, which is an input, no more than its kind.
 */
void qd_options_parse(int argc, char **argv, const char *doc, const struct qd_options *options, size_t n, unsigned takes,
	unsigned needs, struct qd_provenance *made);
/* Exits as the parser does: "quad COMMAND: MESSAGE" and where help is. For what one row cannot say. */
_Noreturn void qd_usage(const char *fmt, ...) QD_PRINTF(1, 2);

/* For `call`: a whole number, or which of the row's choices; QD_EINPUT says "--NAME is 'ARG', needs ...". */
QD_CHECK enum qd_status qd_option_int(const struct qd_option *option, const char *arg, int64_t low, int64_t high, int64_t *out);
QD_CHECK enum qd_status qd_option_choice(const struct qd_option *option, const char *arg, size_t *index);

#endif
