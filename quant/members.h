/*
 * Structs as JSON objects: a table has a row for each member, which says under which key what field stands and within which bounds.
 * One writer and one reader walk every table (members.c).
 *
 * Written are the keys in the order of the rows. The reader takes exactly these (but for marks): a missing, doubled, unknown or ill-typed key is
 * refused by name, "'bits' is 12, needs 4, 8, 16 or 32".
 */
#ifndef QUAD_QUANT_MEMBERS_H
#define QUAD_QUANT_MEMBERS_H

#include "lib/base/base.h"
#include <stdio.h>

enum qd_member_kind {
	QD_MEMBER_END,           /* of a table */
	QD_MEMBER_CONSTANT,      /* no field: `high`; read from low to high */
	QD_MEMBER_BITS,          /* int: 0, 4, 8, 16 or 32, from low to high */
	QD_MEMBER_WHOLE,         /* int64_t: a whole number from low to high */
	QD_MEMBER_COUNT,         /* size_t: the same */
	QD_MEMBER_NUMBER,        /* double from low to high, in as few digits as bring it back */
	QD_MEMBER_DB,            /* double: null is infinity */
	QD_MEMBER_BOOL,          /* bool */
	QD_MEMBER_MARK,          /* bool: true, or absent */
	QD_MEMBER_CHOICE,        /* an enum: one of `names`, from number `low` on */
	QD_MEMBER_NAME,          /* const char *: one of `names`, from number `low` on, as it stands there */
	QD_MEMBER_TEXT,          /* const char *: not NULL */
	QD_MEMBER_OPTIONAL_TEXT, /* const char *: null is NULL */
	QD_MEMBER_HASH,          /* char[QD_HASH_TEXT] */
	QD_MEMBER_NUMBERS,       /* double *: a list of any */
	QD_MEMBER_OBJECT,        /* a struct within; messages name it */
	QD_MEMBER_GROUP,         /* fields of the same struct below one key */
	QD_MEMBER_POINTED,       /* a pointer to a struct whose members stand among the others: no key */
	QD_MEMBER_LIST,          /* a pointer to an array of structs, an element a line */
	QD_MEMBER_OWN,           /* what `write` and `read` make of it */
};
/* What is written, and how: members with one of these bits, each on a line of its own at `indent` or, below 0, all on one line. */
struct qd_members_out {
	FILE *stream;
	unsigned in;
	int indent;
};
/* What is read: members with one of these bits; texts and arrays go to `arena`. */
struct qd_members_in {
	struct qd_arena *arena;
	unsigned in;
};
struct qd_member {
	const char *key;
	enum qd_member_kind kind;
	size_t at;   /* offset of the field in the struct */
	unsigned in; /* where it stands, as bits of the table's own */
	double low, high;
	const char *const *names;        /* of choices, NULL at the end */
	const struct qd_member *members; /* of objects */
	size_t size;                     /* of the struct that those are in: lists, and what is pointed to */
	size_t n_at;                     /* offset of a list's length, a size_t */
	/* Of a list, or NULL: called when element i was read. */
	enum qd_status (*added)(void *base, size_t i);
	/* Of kinds of one's own; `base` is the struct. `value` is NULL where the key is missing. */
	enum qd_status (*write)(const struct qd_members_out *out, const void *base);
	enum qd_status (*read)(const struct qd_members_in *in, const struct qd_member *member, json_t *value, void *base);
};

/* The object. QD_EINPUT: a text is not UTF-8. QD_ENOMEM. */
QD_CHECK enum qd_status qd_members_write(const struct qd_members_out *out, const struct qd_member *members, const void *base);
/* QD_EINPUT. Members that are not read stay as they are. */
QD_CHECK enum qd_status qd_members_read(
	const struct qd_members_in *in, const struct qd_member *members, json_t *object, void *base);

/* For kinds of one's own: prints, or QD_ENOMEM. */
QD_CHECK enum qd_status qd_member_print(const struct qd_members_out *out, const char *fmt, ...) QD_PRINTF(2, 3);
/* A whole number within the member's bounds. */
QD_CHECK enum qd_status qd_member_whole(const struct qd_member *member, const json_t *value, int64_t *out);
/* "'axis' is 9, needs NEEDS", or that there is none. */
QD_CHECK enum qd_status qd_member_refused(const struct qd_member *member, const json_t *value, const char *needs);

#endif
