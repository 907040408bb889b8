#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "tests/unit/failing_malloc.h"
#include "tests/unit/scratch.h"

/* ---- the allocator ---- */

void *__interceptor_malloc(size_t bytes);
void *__interceptor_calloc(size_t n, size_t bytes);
void *__interceptor_realloc(void *block, size_t bytes);
void *__interceptor_aligned_alloc(size_t alignment, size_t bytes);
void *__interceptor_memalign(size_t alignment, size_t bytes);
int __interceptor_posix_memalign(void **block, size_t alignment, size_t bytes);
void __interceptor_free(void *block);
void *reallocarray(void *block, size_t n, size_t bytes);

/* Blocks allocated and not freed, by all threads: one frees what another has allocated. */
static _Atomic int64_t live;

/* Of this thread: in others, OpenMP's, nothing fails. */
static _Thread_local struct {
	bool running; /* the call: what comes after it is not counted */
	size_t seen;  /* allocations */
	size_t fails; /* the one that fails; 0: none does */
	bool failed;
	bool trace; /* tell where that one is */
} memory;

static bool refuse(void)
{
	if (!memory.running || ++memory.seen != memory.fails)
		return false;
	memory.failed = true;
	if (memory.trace)
		__sanitizer_print_stack_trace();
	errno = ENOMEM;
	return true;
}

static void *count(void *block)
{
	live += block != NULL;
	return block;
}

void *malloc(size_t bytes)
{
	return refuse() ? NULL : count(__interceptor_malloc(bytes));
}

void *calloc(size_t n, size_t bytes)
{
	return refuse() ? NULL : count(__interceptor_calloc(n, bytes));
}

void *realloc(void *block, size_t bytes)
{
	void *moved;

	if (refuse())
		return NULL;
	moved = __interceptor_realloc(block, bytes);
	live += (moved != NULL) - (block != NULL);
	return moved;
}

void *reallocarray(void *block, size_t n, size_t bytes)
{
	size_t all;

	return qd_mul_overflow(n, bytes, &all) ? NULL : realloc(block, all);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	return refuse() ? NULL : count(__interceptor_aligned_alloc(alignment, bytes));
}

/* OpenMP's runtime, which ends the program when it has no memory for a team of threads. */
void *memalign(size_t alignment, size_t bytes)
{
	return count(__interceptor_memalign(alignment, bytes));
}

/* oneDNN, version 2.6 of which writes to what it did not get. */
int posix_memalign(void **block, size_t alignment, size_t bytes)
{
	int failed = __interceptor_posix_memalign(block, alignment, bytes);

	live += failed == 0;
	return failed;
}

char *strndup(const char *text, size_t most)
{
	size_t n = strnlen(text, most);
	char *copy = malloc(n + 1);

	if (copy != NULL) {
		memcpy(copy, text, n);
		copy[n] = '\0';
	}
	return copy;
}

char *strdup(const char *text)
{
	return strndup(text, strlen(text));
}

void free(void *block)
{
	live -= block != NULL;
	__interceptor_free(block);
}

/* Nothing here has to outlive the machine, and waiting for the disk is most of what a call would take. */
int fsync(int fd)
{
	(void)fd;
	return 0;
}

/* ---- what a call came to ---- */

static uint64_t seen;

void failing_see(const void *data, size_t bytes)
{
	seen = XXH3_64bits_withSeed(data, bytes, seen);
}

void failing_see_text(const char *text)
{
	failing_see(text != NULL ? text : "(none)", text != NULL ? strlen(text) + 1 : 7);
}

void failing_see_file(const char *path)
{
	char hash[QD_HASH_TEXT];

	memory.running = false;
	if (qd_hash_file(path, hash) != QD_OK)
		fail_msg("%s", qd_message());
	failing_see_text(hash);
}

/* ---- what a call leaves ---- */

/* Names and sizes below a folder, in an order that does not matter. */
static uint64_t below(const char *path)
{
	char name[4096];
	uint64_t sum = 0;
	DIR *folder = opendir(path);

	for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
		struct stat info;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		sum += XXH3_64bits(name, strlen(name));
		if (lstat(name, &info) == 0 && S_ISDIR(info.st_mode))
			sum += below(name);
	}
	if (folder != NULL)
		closedir(folder);
	return sum;
}

static size_t open_files(void)
{
	size_t n = 0;
	DIR *folder = opendir("/proc/self/fd");

	while (folder != NULL && readdir(folder) != NULL)
		n++;
	if (folder != NULL)
		closedir(folder);
	return n;
}

/* Files of the scratch folder that are mapped. */
static size_t mappings(void)
{
	char line[8192];
	size_t n = 0;
	FILE *maps = fopen("/proc/self/maps", "r");

	while (maps != NULL && fgets(line, sizeof(line), maps) != NULL)
		n += strstr(line, scratch_dir()) != NULL;
	if (maps != NULL)
		fclose(maps);
	return n;
}

struct traces {
	int64_t live;
	uint64_t files;
	size_t open, mapped;
};

static struct traces look(void)
{
	/* the reading itself is not part of what is read */
	struct traces t = { .live = live };

	t.files = below(scratch_dir());
	t.open = open_files();
	t.mapped = mappings();
	return t;
}

/* ---- the loop ---- */

enum {
	MOST_FAULTS = 4, /* of one call that are told */
	FIRST = 120, /* allocations that each fail; of many more, as many are taken evenly, EVERY=1 in the environment takes all */
};

static size_t next(size_t n, size_t all)
{
	return n < FIRST || all < 3 * FIRST || getenv("EVERY") != NULL ? n + 1 : n + (all - FIRST) / FIRST;
}

static bool one(failing_call call, const void *context, size_t n, enum qd_status *st)
{
	enum qd_status stale = qd_fail(QD_EINPUT, "stale");

	(void)stale;
	qd_json_starved(); /* by what was tried before */
	seen = 0;
	memory.running = true;
	memory.seen = 0;
	memory.fails = n;
	memory.failed = false;
	*st = call(context);
	memory.running = false;
	return memory.failed;
}

/* A call of the system that failed for want of memory is told in the system's words. */
static bool says_so(enum qd_status st)
{
	if (st == QD_EIO)
		return qd_ends_with(qd_message(), strerror(ENOMEM));
	return st == QD_ENOMEM && strcmp(qd_message(), "stale") != 0;
}

/* What is wrong after the call without allocation n; NULL: nothing. */
static const char *wrong(enum qd_status st, uint64_t want, const struct traces *before, const struct traces *after)
{
	if (st != QD_OK && !says_so(st))
		return "it fails for another reason";
	if (st == QD_OK && seen != want)
		return "it comes to something else";
	if (after->live != before->live)
		return "memory is left";
	if (after->files != before->files)
		return "the scratch folder changes";
	if (after->open != before->open || after->mapped != before->mapped)
		return "a file stays open";
	return NULL;
}

size_t failing_each(const char *what, failing_call call, const void *context)
{
	struct traces before;
	enum qd_status st;
	uint64_t want;
	size_t n = 0, all;
	int faults = 0;

	/* Twice: what is made once and kept for good (records of temporaries, tables of the C library) is not the call's. */
	for (int i = 0; i < 2; i++) {
		one(call, context, 0, &st);
		if (st != QD_OK)
			fail_msg("%s: %s", what, qd_message());
	}
	want = seen;
	all = memory.seen;
	before = look();
	for (n = 1; n <= all; n = next(n, all)) {
		struct traces after;
		const char *fault;

		if (!one(call, context, n, &st))
			fail_msg("%s: allocates %zu times, then fewer than %zu times", what, all, n);
		after = look();
		fault = wrong(st, want, &before, &after);
		if (fault == NULL)
			continue;
		print_error("%s: without allocation %zu %s (status %d, '%s')\n", what, n, fault, (int)st, qd_message());
		memory.trace = true; /* once more, to tell where */
		one(call, context, n, &st);
		memory.trace = false;
		if (++faults == MOST_FAULTS)
			break;
		before = look(); /* what was left is told once */
	}
	if (faults > 0)
		fail();
	one(call, context, 0, &st);
	if (st != QD_OK || seen != want)
		fail_msg("%s: afterwards it fails or comes to something else: %s", what, qd_message());
	print_message("# %s: %zu allocations\n", what, all);
	return all;
}

void failing_each_on(const char *what, failing_call call, const char *path)
{
	char kept[4096];

	snprintf(kept, sizeof(kept), "%s", path);
	failing_each(what, call, kept);
}
