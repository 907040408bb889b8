/*
 * lib/base: what every other folder stands on. Status codes and the one way to fail, arenas, growable arrays, a string map, files
 * (mapped in; temporary, flushed and renamed out), JSON through jansson, and the hooks through which the library speaks without
 * printing.
 *
 * Ownership: `_init/_release` work on memory the caller holds, `_new/_free` on the heap. A `_release` of a zeroed struct is a
 * no-op, so cleanup code may release everything it declared with `= {0}`.
 *
 * Nothing here is locked: one thread owns an object at a time. The last message is per thread.
 */
#ifndef QUAD_LIB_BASE_BASE_H
#define QUAD_LIB_BASE_BASE_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define QD_CHECK __attribute__((warn_unused_result))
#define QD_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define QD_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/*
 * Before a function whose plain loops are worth compiling once per vector width; the running processor's version is picked at load
 * time. Off under AddressSanitizer, whose checks cannot run while that choice is made.
 */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QD_SANITIZED 1
#endif
#endif
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(QD_SANITIZED) && !defined(__clang__)
#define QD_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QD_CLONES
#endif

/* ---- status: X(name, value, meaning). Each is something a caller does differently. ---- */
#define QD_STATUS_LIST(X)                                                                                                          \
	X(OK, 0, "success")                                                                                                        \
	X(EINPUT, -1, "a file or an argument is malformed, or does not fit the others")                                            \
	X(EUNSUPPORTED, -2, "well-formed, but not something this program handles")                                                 \
	X(EIO, -3, "the system could not read or write a file")                                                                    \
	X(ENOMEM, -4, "out of memory")                                                                                             \
	X(EEXIST, -5, "an output is already there and replacing it was not asked for")                                             \
	X(ETORCH, -6, "the execution library failed")                                                                              \
	X(ECHECK, -7, "a check that was asked for said no")                                                                        \
	X(EINTR, -8, "interrupted by a signal")

enum qd_status {
#define QD_STATUS_ENUM(name, value, meaning) QD_##name = value,
	QD_STATUS_LIST(QD_STATUS_ENUM)
#undef QD_STATUS_ENUM
};

/*
 * Records the message of a failure and returns `code`: the only way to fail (`return qd_fail(QD_EINPUT, "...")`). Lower case, no
 * full stop, names in single quotes, what was found, then what is needed. What no terminal should see is escaped (qd_escape). `code`
 * is not QD_OK.
 */
QD_CHECK enum qd_status qd_fail(enum qd_status code, const char *fmt, ...) QD_PRINTF(2, 3);

/* Puts "<text>: " before the recorded message and returns `code` unchanged; a no-op for QD_OK. Callers say where, low levels say
 * what. */
QD_CHECK enum qd_status qd_prefix(enum qd_status code, const char *fmt, ...) QD_PRINTF(2, 3);

/* The message of this thread's last failure; "" before any. Valid until the next failure. */
const char *qd_message(void);

/* The body of a function that owns something: `QD_TRY(st, call(...));` leaves through its one exit, `out:`. */
#define QD_TRY(st, call)                                                                                                           \
	do {                                                                                                                       \
		(st) = (call);                                                                                                     \
		if ((st) != QD_OK)                                                                                                 \
			goto out;                                                                                                  \
	} while (0)

/* ---- checked arithmetic: true on overflow, `*out` untouched then ---- */
bool qd_mul_overflow(size_t a, size_t b, size_t *out);
bool qd_add_overflow(size_t a, size_t b, size_t *out);

/* ---- arena: many small things with one end of life ---- */
struct qd_arena_block;
struct qd_arena {
	struct qd_arena_block *head;
};
/* `bytes` zeroed bytes aligned to 64, or NULL with the message recorded (QD_ENOMEM). Zero bytes give a valid pointer. */
void *qd_arena_alloc(struct qd_arena *arena, size_t bytes);
/* As above for n elements of `size` bytes, overflow checked. */
void *qd_arena_array(struct qd_arena *arena, size_t n, size_t size);
char *qd_arena_strdup(struct qd_arena *arena, const char *text);
char *qd_arena_strf(struct qd_arena *arena, const char *fmt, ...) QD_PRINTF(2, 3);
void qd_arena_release(struct qd_arena *arena);

/* ---- growable array: `struct T *items; size_t n, cap;` and QD_PUSH(st, items, n, cap, value) ---- */
QD_CHECK enum qd_status qd_grow(void *items_address, size_t *cap, size_t need, size_t element_size);
#define QD_PUSH(st, items, n, cap, value)                                                                                          \
	do {                                                                                                                       \
		(st) = qd_grow(&(items), &(cap), (n) + 1, sizeof(*(items)));                                                       \
		if ((st) != QD_OK)                                                                                                 \
			goto out;                                                                                                  \
		(items)[(n)++] = (value);                                                                                          \
	} while (0)

/* ---- map from strings to uint32_t (keys are copied) ---- */
#define QD_NONE UINT32_MAX
struct qd_strmap {
	struct qd_strmap_entry *entries;
	uint32_t n, cap;
	struct qd_arena keys;
};
/* The value of `key`, or QD_NONE. */
uint32_t qd_strmap_get(const struct qd_strmap *map, const char *key);
/* Sets `key`, replacing an older value. QD_ENOMEM. */
QD_CHECK enum qd_status qd_strmap_put(struct qd_strmap *map, const char *key, uint32_t value);
/* Forgets `key`; a no-op when absent. */
void qd_strmap_remove(struct qd_strmap *map, const char *key);
void qd_strmap_release(struct qd_strmap *map);

/* ---- strings ---- */
bool qd_starts_with(const char *text, const char *prefix);
bool qd_ends_with(const char *text, const char *suffix);
/* Copies `text` with everything escaped that a terminal would not just show (escape.c), cut to whole characters where `size` bytes,
 * at least one, do not hold it. */
void qd_escape(char *out, size_t size, const char *text);
/* The same, all of it; the caller frees it. NULL: out of memory. */
char *qd_escaped(const char *text);

/*
 * ---- text in memory ----
 * A stream to print to, as open_memstream's, but one that says that memory was out: glibc's leaves out what it has no room for.
 */
struct qd_text {
	FILE *stream;
	char *bytes; /* [n], and a 0 once it is ended */
	size_t n, cap;
};
QD_CHECK enum qd_status qd_text_open(struct qd_text *text);
/* All that was printed is in `bytes`. QD_ENOMEM. */
QD_CHECK enum qd_status qd_text_end(struct qd_text *text);
/* The ended text, the caller's to free. */
char *qd_text_take(struct qd_text *text);
void qd_text_release(struct qd_text *text);

/* ---- paths ---- */
#define QD_PATH_BYTES 4096 /* of every buffer that holds a path */
/* "FOLDER/NAME" into `out`, NAME as printf makes it. QD_EIO when it does not fit; `out` is "" then. */
QD_CHECK enum qd_status qd_path_join(char *out, const char *folder, const char *name, ...) QD_PRINTF(3, 4);
/* Whether "FOLDER/NAME" is a file. */
bool qd_has_file(const char *folder, const char *name);
/* What `path` leads to through symbolic links, also where nothing is there yet. QD_EIO: too long, or a circle. */
QD_CHECK enum qd_status qd_path_follow(char *out, const char *path);

/* ---- files in ---- */
struct qd_mapping {
	const unsigned char *data;
	size_t size;
};
/* Maps a whole regular file for reading (an empty one gives size 0). QD_EIO names the path. */
QD_CHECK enum qd_status qd_mapping_open(struct qd_mapping *mapping, const char *path);
void qd_mapping_release(struct qd_mapping *mapping);
/* Tells the system that bytes which have been copied elsewhere are not needed soon: their pages leave this process's memory and
 * come back from the file if they are read again. Does nothing to memory that is not part of an open mapping. */
void qd_mapping_forget(const void *data, size_t bytes);
/* The path of the open mapping that `address` lies in, or NULL. Async-signal-safe: for a handler of SIGBUS, which is what reading a
 * mapped file gives where it has become shorter. */
const char *qd_mapping_path(const void *address);
bool qd_is_directory(const char *path);
bool qd_is_file(const char *path);
/* True when the bytes are a Git-LFS pointer: the small text that stands in a clone for a large file that was not fetched. */
bool qd_is_lfs_pointer(const void *data, size_t bytes);
/* XXH3-128 of a file's bytes as "xxh3-128:<32 hex digits>" (what `xxhsum -H2` prints). `out` has room for QD_HASH_TEXT bytes. */
#define QD_HASH_TEXT 48
QD_CHECK enum qd_status qd_hash_file(const char *path, char *out);
/* The same over bytes in memory. */
void qd_hash_bytes(const void *data, size_t bytes, char *out);

/*
 * ---- what an output was made from (provenance.c, which has the layout) ----
 * Neither paths nor times: the same inputs give the same bytes, wherever they lie and wherever the output goes.
 */
#define QD_PROVENANCE_KEY "quad.provenance" /* in a safetensors file's metadata */
struct qd_made_option {
	const char *name, *value;
};
struct qd_made_input {
	const char *role; /* "base", "adapter", "calib", ... */
	const char *name; /* NULL: none */
	const char *hash;
};
struct qd_provenance {
	const char *program, *command; /* "quad 1.0", "calib"; not copied */
	struct qd_made_option *options;
	struct qd_made_input *inputs;
	size_t n_options, cap_options, n_inputs, cap_inputs;
	struct qd_arena arena;
};
/* Each adds one, copied. QD_ENOMEM. */
QD_CHECK enum qd_status qd_provenance_option(struct qd_provenance *p, const char *name, const char *value);
QD_CHECK enum qd_status qd_provenance_input(struct qd_provenance *p, const char *role, const char *name, const char *hash);
/* The same with the hash of a file's bytes. QD_EIO. */
QD_CHECK enum qd_status qd_provenance_file(struct qd_provenance *p, const char *role, const char *path);
/* The object; NULL: a text is not UTF-8, or memory is out. */
json_t *qd_provenance_json(const struct qd_provenance *p);
/* The same as one line, the caller's to free. QD_EINPUT, QD_ENOMEM. */
QD_CHECK enum qd_status qd_provenance_text(const struct qd_provenance *p, char **text);
/* Fills `p`, zeroed before. QD_EINPUT. */
QD_CHECK enum qd_status qd_provenance_read(struct qd_provenance *p, const json_t *json);
void qd_provenance_release(struct qd_provenance *p);

/*
 * ---- files out ----
 * Bytes go to a temporary name in the target's folder; commit flushes (fsync) and renames. Until then the target, which is what a
 * symbolic link leads to, is untouched; a release without commit removes the temporary file. Open outputs are also removed by qd_outputs_abandon().
 */
struct qd_output {
	int fd;
	char *path, *temporary; /* `temporary` is NULL when `path` is a device or a pipe: those are written to directly */
	size_t written;
	bool force;
	char *buffer; /* bytes not yet handed to the system */
	size_t buffered;
	struct qd_pending *pending;
};
/* QD_EEXIST when `path` exists and `force` is false; QD_EIO when the folder is missing or read-only. Both before anything is
 * computed. */
QD_CHECK enum qd_status qd_output_open(struct qd_output *out, const char *path, bool force);
QD_CHECK enum qd_status qd_output_write(struct qd_output *out, const void *data, size_t bytes);
QD_CHECK enum qd_status qd_output_printf(struct qd_output *out, const char *fmt, ...) QD_PRINTF(2, 3);
QD_CHECK enum qd_status qd_output_commit(struct qd_output *out);
void qd_output_release(struct qd_output *out);
/* One call: the whole file. */
QD_CHECK enum qd_status qd_write_file(const char *path, const void *data, size_t bytes, bool force);

/* QD_EINPUT when writing `output` would write over `input`: when it is that file or folder, holds it or lies in it. */
QD_CHECK enum qd_status qd_output_check_apart(const char *output, const char *input);

/*
 * A folder that appears whole or not at all: write files below `out.temporary` (with the functions above), then commit renames the
 * folder. With `force` an older folder is moved aside first and removed after the rename; on failure it is put back. Only what this
 * program wrote is replaced: QD_EEXIST names a file in the older folder that it did not (owned.c).
 */
struct qd_output_folder {
	char *path, *temporary;
	bool force;
	struct qd_pending *pending;
};
QD_CHECK enum qd_status qd_output_folder_open(struct qd_output_folder *out, const char *path, bool force);
QD_CHECK enum qd_status qd_output_folder_commit(struct qd_output_folder *out);
void qd_output_folder_release(struct qd_output_folder *out);

/*
 * Files of a folder that is there already and that change together (update.c): write below `out.temporary` what is to lie in the
 * folder, then commit. Whatever ends the program, the folder has all of them or none once it is settled: those who read it do that
 * first. Open waits while another process changes the same folder. QD_EIO.
 */
struct qd_output_update {
	char *folder, *temporary;
	int lock;
	struct qd_pending *pending;
};
QD_CHECK enum qd_status qd_output_update_open(struct qd_output_update *out, const char *folder);
QD_CHECK enum qd_status qd_output_update_commit(struct qd_output_update *out);
void qd_output_update_release(struct qd_output_update *out);
/* Finishes a change that was committed and then cut off; a no-op in other folders, also in those that are not there. */
QD_CHECK enum qd_status qd_output_update_settle(const char *folder);

/* Removes from a folder the temporaries of runs that were killed. */
void qd_leftovers_remove(const char *folder);
/* Removes every open temporary file and folder. Async-signal-safe: this is what the program's SIGINT and SIGTERM handlers call. */
void qd_outputs_abandon(void);

/* ---- JSON: jansson, with bounds and messages ---- */
/*
 * Reads a JSON file (an object or an array) of at most 256 MiB, nesting at most 128, no duplicate keys, no \u0000. A byte order
 * mark is skipped; -Infinity, Infinity and NaN, which Python writes, come as strings of these words. `*out` is a new reference.
 * QD_EIO, QD_EINPUT (line and column).
 */
QD_CHECK enum qd_status qd_json_read(const char *path, json_t **out);
/* The same with every number as a real: for files that may hold integers beyond 64 bits, which are otherwise QD_EINPUT. */
QD_CHECK enum qd_status qd_json_read_reals(const char *path, json_t **out);
/* As qd_json_read from memory; `what` names it in messages. */
QD_CHECK enum qd_status qd_json_parse(const char *what, const char *text, size_t bytes, json_t **out);
/* The same where nothing but JSON is allowed: no byte order mark, no NaN. */
QD_CHECK enum qd_status qd_json_parse_strict(const char *what, const char *text, size_t bytes, json_t **out);
/*
 * Whether memory was out while JSON was made on this thread since this, qd_json_text or qd_json_write was last called: then what
 * was made lacks something. A document that is written needs no such look at each of its values, writing it fails.
 */
bool qd_json_starved(void);
/* As text on the heap, with jansson's flags. QD_ENOMEM; QD_EINPUT for what is no JSON. `*text` is NULL then. */
QD_CHECK enum qd_status qd_json_text(const json_t *value, size_t flags, char **text);
/* Writes with two-space indentation in insertion order, 17 significant digits, newline at the end, through qd_output. */
QD_CHECK enum qd_status qd_json_write(const char *path, const json_t *value, bool force);
/* The same for a document whose reals are all qd_json_float's: each as its shortest text. */
QD_CHECK enum qd_status qd_json_write_floats(const char *path, const json_t *value, bool force);
/* A number whose text is that of qd_float_text; finite. NULL when memory is out. */
json_t *qd_json_float(float x);
/*
 * Making documents: what cannot be made is NULL, and so is what it should have become part of, as json_pack has it too. One look at
 * the whole is then enough. `item` is stolen; the list is released when it becomes NULL.
 */
void qd_json_append(json_t **list, json_t *item);

/* The shortest decimal that reads back as the same finite number ("0.1", "1e-09"), as float32 or through double. `text` has
 * QD_NUMBER_TEXT bytes and is returned. */
#define QD_NUMBER_TEXT 32
char *qd_float_text(float x, char *text);
char *qd_double_text(double x, char *text);

/*
 * ---- JSON objects field by field (fields.c) ----
 * config.json, scheduler_config.json, adapter_config.json and their kin, as diffusers, transformers and PEFT read them: an absent
 * key means the default of the class; names in `_use_default_values` are dropped in favour of the defaults; unknown keys are
 * ignored. Values that this program does not implement are refused by name.
 *
 * The first failure is kept, and what fails has its default: an object is read in one go, and `status` asked in the end.
 */
struct qd_fields {
	const char *what;      /* the file, for messages */
	const json_t *json;    /* the object; NULL: every field is absent */
	const char *prefix;    /* before every name in the file ("unet."), or NULL */
	enum qd_status status; /* the first failure */
};

/* A field that the file gives and `_use_default_values` does not drop; NULL when absent. A null stays a null. */
const json_t *qd_field(const struct qd_fields *r, const char *name);
bool qd_field_is(const json_t *value, const char *text);
/* Unless something failed before: "'unet/config.json': field 'act_fn' is "x", needs NEED"; or in words of one's own. */
void qd_field_refuse(struct qd_fields *r, enum qd_status code, const char *name, const json_t *found, const char *need);
void qd_fields_fail(struct qd_fields *r, enum qd_status code, const char *fmt, ...) QD_PRINTF(3, 4);

/*
 * One value of its kind, QD_EINPUT for any other. Absent gives `absent`; so does null, which is false for booleans. Ranges hold
 * their ends; INT64_MAX and +-INFINITY stand for none.
 */
int64_t qd_field_int(struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent);
double qd_field_number(struct qd_fields *r, const char *name, double low, double high, double absent);
bool qd_field_bool(struct qd_fields *r, const char *name, bool absent);
/* The index of one of the texts in `names`, which ends with NULL; QD_EUNSUPPORTED for any other value. */
size_t qd_field_choice(struct qd_fields *r, const char *name, const char *const *names, size_t absent);
/* The same where null is no value. */
int64_t qd_field_needed_int(struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent);
size_t qd_field_needed_choice(struct qd_fields *r, const char *name, const char *const *names, size_t absent);

/* A list of n numbers into `out`; false where it is absent or null, or is something else. */
bool qd_field_numbers(struct qd_fields *r, const char *name, size_t n, double *out);
/* Item `i` of a list field of `blocks` items; the value itself when it is no list. NULL, QD_EINPUT when the length is wrong. */
const json_t *qd_field_item(struct qd_fields *r, const char *name, const json_t *value, int blocks, int i);
/* `value`, which is field `name` or an item of it, as a whole number; `low` when it is none. */
int64_t qd_field_as_int(struct qd_fields *r, const char *name, const json_t *value, int64_t low, int64_t high);
/* One number for every block, or a list of one for each, from 1 to `high`; absent (null is no value): `absent` for all. */
void qd_field_ints(struct qd_fields *r, const char *name, int blocks, int64_t high, int64_t absent, int64_t *out);

/* ---- hooks: how the library speaks; all NULL by default ---- */
enum qd_log_level { QD_LOG_WARNING, QD_LOG_INFO, QD_LOG_DEBUG };
typedef void (*qd_log_hook)(void *context, enum qd_log_level level, const char *text);
void qd_set_log_hook(qd_log_hook hook, void *context);
void qd_log(enum qd_log_level level, const char *fmt, ...) QD_PRINTF(2, 3);

/*
 * Progress of long work: `done` of `total` units (rate and time left are the hook's business), `note` such as "loss 0.0123" or
 * NULL. Library loops call it once per unit.
 */
typedef void (*qd_progress_hook)(void *context, const char *what, uint64_t done, uint64_t total, const char *note);
void qd_set_progress_hook(qd_progress_hook hook, void *context);
void qd_progress(const char *what, uint64_t done, uint64_t total, const char *note);

/* Seconds of a monotonic clock. */
double qd_now(void);

/* How many processors' time this process can have, at least 1: its affinity, and the quotas of its control groups (rounded up) as
 * the files below `root` tell them ("" but in tests). */
int qd_processors(const char *root);

#endif
