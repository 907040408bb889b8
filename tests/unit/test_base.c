/*
 * lib/base: messages, checked arithmetic, arenas, growable arrays, maps, files in, hashes, hooks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/base/base.h"
#include "lib/math/math.h"
#include "tests/unit/scratch.h"

/* ---- status ---- */

static void fail_records_the_message(void **state)
{
	(void)state;
	assert_int_equal(qd_fail(QD_EINPUT, "tensor '%s' has %d dimensions, needs 4", "x", 2), QD_EINPUT);
	assert_string_equal(qd_message(), "tensor 'x' has 2 dimensions, needs 4");
	assert_int_equal(qd_prefix(QD_EINPUT, "cannot read '%s'", "a"), QD_EINPUT);
	assert_string_equal(qd_message(), "cannot read 'a': tensor 'x' has 2 dimensions, needs 4");
	assert_int_equal(qd_prefix(QD_OK, "no"), QD_OK);
	assert_string_equal(qd_message(), "cannot read 'a': tensor 'x' has 2 dimensions, needs 4");
}

static void message_may_hold_the_message(void **state)
{
	(void)state;
	assert_int_equal(qd_fail(QD_EIO, "inner"), QD_EIO);
	assert_int_equal(qd_fail(QD_EIO, "outer (%s)", qd_message()), QD_EIO);
	assert_string_equal(qd_message(), "outer (inner)");
	assert_int_equal(qd_prefix(QD_EIO, "again %s", qd_message()), QD_EIO);
	assert_string_equal(qd_message(), "again outer (inner): outer (inner)");
}

static void message_is_one_printable_line(void **state)
{
	(void)state;
	assert_int_equal(qd_fail(QD_EINPUT, "name 'a\nb\033[31m\177'"), QD_EINPUT);
	assert_string_equal(qd_message(), "name 'a\\nb\\x1b[31m\\x7f'");
}

static void text_is_escaped_as_terminals_need(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{ "plain \\ \"text\" ~", "plain \\ \"text\" ~" },
		{ "a\r\n\tb\x01\x1b]0;x\x07\x7f", "a\\x0d\\n\\tb\\x01\\x1b]0;x\\x07\\x7f" },
		{ "\xc3\xa4 \xe4\xb8\xad \xf0\x9f\x98\x80",
			"\xc3\xa4 \xe4\xb8\xad \xf0\x9f\x98\x80" }, /* a umlaut, a Han character, a face */
		{ "\xc2\x9b"
		  "31m",
			"\\xc2\\x9b"
			"31m" }, /* CSI as one character */
		{ "\xe2\x80\xae"
		  "x\xe2\x80\xa8",
			"\\xe2\\x80\\xaex\\xe2\\x80\\xa8" },
		{ "\x9b\xff\xc3", "\\x9b\\xff\\xc3" },                                                  /* no UTF-8 */
		{ "\xc0\x9b \xe0\x82\x9b \xed\xa0\x80", "\\xc0\\x9b \\xe0\\x82\\x9b \\xed\\xa0\\x80" }, /* too long, half a pair */
	};
	char small[6];

	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char *shown = qd_escaped(cases[i][0]);
		assert_string_equal(shown, cases[i][1]);
		free(shown);
	}
	qd_escape(small, sizeof(small), "abc\xc3\xa4\xc3\xa4");
	assert_string_equal(small, "abc\xc3\xa4");
	qd_escape(small, sizeof(small), "abc\033");
	assert_string_equal(small, "abc");
}

static void long_messages_are_cut(void **state)
{
	(void)state;
	char text[8192];
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(qd_fail(QD_EINPUT, "%s", text), QD_EINPUT);
	assert_int_equal(strlen(qd_message()), 2047);
	assert_int_equal(qd_prefix(QD_EINPUT, "%s", text), QD_EINPUT);
	assert_int_equal(strlen(qd_message()), 2047);
	assert_int_equal(qd_prefix(QD_EINPUT, "b"), QD_EINPUT);
	assert_int_equal(strncmp(qd_message(), "b: aaa", 6), 0);
	assert_int_equal(strlen(qd_message()), 2047);
}

/* ---- memory ---- */

static void arithmetic_overflows_are_seen(void **state)
{
	(void)state;
	size_t out = 5;
	assert_true(qd_mul_overflow(SIZE_MAX / 2 + 1, 2, &out));
	assert_true(qd_add_overflow(SIZE_MAX, 1, &out));
	assert_int_equal(out, 5);
	assert_false(qd_mul_overflow(SIZE_MAX / 3, 3, &out));
	assert_int_equal(out, SIZE_MAX / 3 * 3);
	assert_false(qd_add_overflow(SIZE_MAX - 1, 1, &out));
	assert_int_equal(out, SIZE_MAX);
}

static void arena_memory_is_zeroed_aligned_and_apart(void **state)
{
	(void)state;
	struct qd_random random;
	qd_random_init(&random, test_seed(), 0);
	struct qd_arena arena = { 0 };
	enum { N = 300 };
	unsigned char *at[N];
	size_t bytes[N];
	for (size_t i = 0; i < N; i++) {
		bytes[i] = qd_random_below(&random, i % 50 ? 300 : 3000000);
		at[i] = qd_arena_alloc(&arena, bytes[i]);
		assert_non_null(at[i]);
		assert_int_equal((uintptr_t)at[i] % 64, 0);
		for (size_t j = 0; j < bytes[i]; j++)
			assert_int_equal(at[i][j], 0);
		memset(at[i], (int)(i % 255) + 1, bytes[i]);
	}
	for (size_t i = 0; i < N; i++)
		for (size_t j = 0; j < bytes[i]; j++)
			assert_int_equal(at[i][j], i % 255 + 1);
	qd_arena_release(&arena);
	qd_arena_release(&arena);
}

static void arena_keeps_strings(void **state)
{
	(void)state;
	struct qd_arena arena = { 0 };
	char *a = qd_arena_strdup(&arena, "hello"), *b = qd_arena_strf(&arena, "%s.%d", "block", 3);
	assert_string_equal(a, "hello");
	assert_string_equal(b, "block.3");
	assert_non_null(qd_arena_alloc(&arena, 0));
	qd_arena_release(&arena);
}

static void arena_refuses_impossible_sizes(void **state)
{
	(void)state;
	struct qd_arena arena = { 0 };
	assert_null(qd_arena_array(&arena, SIZE_MAX / 2, 3));
	assert_non_null(strstr(qd_message(), "out of memory"));
	assert_null(qd_arena_alloc(&arena, SIZE_MAX - 8));
	assert_non_null(strstr(qd_message(), "out of memory"));
	qd_arena_release(&arena);
}

static enum qd_status push_many(int **items, size_t *n, size_t *cap, int count)
{
	enum qd_status st = QD_OK;
	for (int i = 0; i < count; i++)
		QD_PUSH(st, *items, *n, *cap, i * 3);
out:
	return st;
}

static void arrays_grow(void **state)
{
	(void)state;
	int *items = NULL;
	size_t n = 0, cap = 0;
	assert_int_equal(push_many(&items, &n, &cap, 1000), QD_OK);
	assert_int_equal(n, 1000);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(items[i], i * 3);
	assert_int_equal(qd_grow(&items, &cap, SIZE_MAX / 2, sizeof(*items)), QD_ENOMEM);
	assert_int_equal(items[999], 2997);
	free(items);
}

/* ---- map ---- */

/* Against a plain array: random puts, replacements and removals over 500 keys, every answer compared after each hundred steps. */
static void map_behaves_like_a_table(void **state)
{
	(void)state;
	enum { KEYS = 500, STEPS = 20000 };
	static uint32_t table[KEYS];
	memset(table, 0xff, sizeof(table));
	struct qd_random random;
	qd_random_init(&random, test_seed(), 1);
	struct qd_strmap map = { 0 };
	char key[32];
	for (int step = 0; step < STEPS; step++) {
		uint32_t k = (uint32_t)qd_random_below(&random, KEYS), value = (uint32_t)step;
		snprintf(key, sizeof(key), "key.%u", k);
		if (qd_random_below(&random, 2)) {
			assert_int_equal(qd_strmap_put(&map, key, value), QD_OK);
			table[k] = value;
		} else {
			qd_strmap_remove(&map, key);
			table[k] = QD_NONE;
		}
		for (k = 0; step % 100 == 0 && k < KEYS; k++) {
			snprintf(key, sizeof(key), "key.%u", k);
			assert_int_equal(qd_strmap_get(&map, key), table[k]);
		}
	}
	uint32_t n = 0;
	for (int k = 0; k < KEYS; k++)
		n += table[k] != QD_NONE;
	assert_int_equal(map.n, n);
	qd_strmap_release(&map);
	assert_int_equal(qd_strmap_get(&map, "key.1"), QD_NONE);
	qd_strmap_remove(&map, "key.1");
}

static void map_copies_keys(void **state)
{
	(void)state;
	struct qd_strmap map = { 0 };
	char key[] = "abc";
	assert_int_equal(qd_strmap_put(&map, key, 7), QD_OK);
	key[0] = 'x';
	assert_int_equal(qd_strmap_get(&map, "abc"), 7);
	assert_int_equal(qd_strmap_get(&map, "xbc"), QD_NONE);
	qd_strmap_release(&map);
}

static void prefixes_and_suffixes(void **state)
{
	(void)state;
	assert_true(qd_starts_with("lora_unet_x", "lora_"));
	assert_false(qd_starts_with("lor", "lora_"));
	assert_true(qd_ends_with("a.weight", ".weight"));
	assert_false(qd_ends_with("weight", ".weight"));
	assert_true(qd_ends_with("a", ""));
}

/* ---- files in ---- */

static void mapping_shows_the_bytes(void **state)
{
	(void)state;
	struct qd_mapping mapping;
	assert_int_equal(qd_mapping_open(&mapping, scratch_file("bytes", "hello", 5)), QD_OK);
	assert_int_equal(mapping.size, 5);
	assert_memory_equal(mapping.data, "hello", 5);
	qd_mapping_release(&mapping);
	qd_mapping_release(&mapping);
	assert_int_equal(qd_mapping_open(&mapping, scratch_file("empty", "", 0)), QD_OK);
	assert_int_equal(mapping.size, 0);
	assert_non_null(mapping.data);
	qd_mapping_release(&mapping);
}

/* What was forgotten comes back from the file; memory that is no mapping keeps what it holds. */
static void mapping_forgets_pages_of_files_only(void **state)
{
	(void)state;
	enum { BYTES = 1 << 16 };
	char *bytes = aligned_alloc(4096, BYTES);
	struct qd_mapping mapping;
	assert_non_null(bytes);
	for (size_t i = 0; i < BYTES; i++)
		bytes[i] = (char)(i % 251);
	assert_int_equal(qd_mapping_open(&mapping, scratch_file("pages", bytes, BYTES)), QD_OK);
	assert_memory_equal(mapping.data, bytes, BYTES);
	qd_mapping_forget(mapping.data + 10, BYTES - 20);
	assert_memory_equal(mapping.data, bytes, BYTES);
	qd_mapping_forget(bytes, BYTES);
	assert_memory_equal(mapping.data, bytes, BYTES);
	qd_mapping_release(&mapping);
	free(bytes);
}

static void mapping_refuses_what_is_no_file(void **state)
{
	(void)state;
	struct qd_mapping mapping;
	char want[5000];
	const char *path = scratch_path("absent");
	assert_int_equal(qd_mapping_open(&mapping, path), QD_EIO);
	snprintf(want, sizeof(want), "cannot read '%s': No such file or directory", path);
	assert_string_equal(qd_message(), want);
	assert_int_equal(qd_mapping_open(&mapping, scratch_dir()), QD_EIO);
	snprintf(want, sizeof(want), "cannot read '%s': it is a folder, needs a file", scratch_dir());
	assert_string_equal(qd_message(), want);
	path = scratch_path("pipe");
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(qd_mapping_open(&mapping, path), QD_EIO);
	snprintf(want, sizeof(want), "cannot read '%s': not a regular file", path);
	assert_string_equal(qd_message(), want);
}

static void paths_are_told_apart(void **state)
{
	(void)state;
	const char *file = scratch_file("plain", "x", 1);
	assert_true(qd_is_file(file));
	assert_false(qd_is_directory(file));
	assert_true(qd_is_directory(scratch_dir()));
	assert_false(qd_is_file(scratch_dir()));
	assert_false(qd_is_file(scratch_path("absent")));
}

/* Values of the XXH3-128 specification's reference program for these inputs. */
static void hashes_are_those_of_xxhsum(void **state)
{
	(void)state;
	char text[QD_HASH_TEXT];
	qd_hash_bytes("", 0, text);
	assert_string_equal(text, "xxh3-128:99aa06d3014798d86001c324468d497f");
	assert_int_equal(qd_hash_file(scratch_file("empty", "", 0), text), QD_OK);
	assert_string_equal(text, "xxh3-128:99aa06d3014798d86001c324468d497f");
	assert_int_equal(qd_hash_file(scratch_path("absent"), text), QD_EIO);
}

static void lfs_pointers_are_known(void **state)
{
	(void)state;
	static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
	assert_true(qd_is_lfs_pointer(pointer, sizeof(pointer) - 1));
	assert_false(qd_is_lfs_pointer(pointer, 10));
	assert_false(qd_is_lfs_pointer("{}", 2));
}

/* ---- hooks ---- */

static char heard[128];

static void listen(void *context, enum qd_log_level level, const char *text)
{
	snprintf(heard, sizeof(heard), "%s %d %s", (const char *)context, (int)level, text);
}

static void follow(void *context, const char *what, uint64_t done, uint64_t total, const char *note)
{
	snprintf(heard, sizeof(heard), "%s %s %d/%d %s", (const char *)context, what, (int)done, (int)total, note);
}

static void hooks_are_called(void **state)
{
	(void)state;
	static char context[] = "here";
	qd_log(QD_LOG_WARNING, "nobody listens");
	qd_progress("nothing", 0, 1, NULL);
	qd_set_log_hook(listen, context);
	qd_set_progress_hook(follow, context);
	qd_log(QD_LOG_INFO, "%d\n", 5);
	assert_string_equal(heard, "here 1 5\\n");
	qd_progress("train", 2, 9, "loss 1");
	assert_string_equal(heard, "here train 2/9 loss 1");
	qd_set_log_hook(NULL, NULL);
	qd_set_progress_hook(NULL, NULL);
	double before = qd_now();
	assert_true(qd_now() >= before);
}

/* ---- processors ---- */

static void make_folder(const char *name)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s", scratch_path(name));
	for (char *slash = path + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
		*slash = '\0';
		mkdir(path, 0755);
		*slash = '/';
	}
	mkdir(path, 0755);
}

/* What this process may use under a file system where `files` (name, text; NULL at the end) tell its groups. */
static int processors_of(const char *const files[][2])
{
	static int tree;
	char name[512], folder[64];

	snprintf(folder, sizeof(folder), "groups%d", tree++);
	for (; files[0][0] != NULL; files++) {
		snprintf(name, sizeof(name), "%s/%.255s", folder, files[0][0]);
		*strrchr(name, '/') = '\0';
		make_folder(name);
		snprintf(name, sizeof(name), "%s/%.255s", folder, files[0][0]);
		scratch_file(name, files[0][1], strlen(files[0][1]));
	}
	return qd_processors(scratch_path(folder));
}

static void quotas_bound_processors(void **state)
{
	(void)state;
	int all = qd_processors("/nowhere");
	cpu_set_t set, one;

	assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
	assert_int_equal(all, CPU_COUNT(&set));
#define TREE(...) processors_of((const char *const[][2]){ __VA_ARGS__, { NULL, NULL } })
	assert_int_equal(TREE({ "proc/self/cgroup", "0::/a/b\n" }, { "sys/fs/cgroup/a/b/cpu.max", "max 100000\n" }), all);
	assert_int_equal(TREE({ "proc/self/cgroup", "0::/a/b\n" }, { "sys/fs/cgroup/a/b/cpu.max", "50000 100000\n" }), 1);
	assert_int_equal(TREE({ "proc/self/cgroup", "0::/a/b\n" }, { "sys/fs/cgroup/a/cpu.max", "50000 100000\n" },
				 { "sys/fs/cgroup/a/b/cpu.max", "900000 100000\n" }),
		1);
	assert_int_equal(TREE({ "proc/self/cgroup", "0::/../../elsewhere\n" }, { "sys/fs/cgroup/cpu.max", "20000 100000\n" }), 1);
	assert_int_equal(TREE({ "proc/self/cgroup", "0::/\n" }, { "sys/fs/cgroup/cpu.max", "110000 100000\n" }), all < 2 ? all : 2);
	/* version 1, with the quota in a container's own top group, and other controllers' groups, which say nothing */
	assert_int_equal(TREE({ "proc/self/cgroup", "9:memory:/m\n4:cpu,cpuacct:/docker/x\n" },
				 { "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n" },
				 { "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n" }),
		1);
	assert_int_equal(TREE({ "proc/self/cgroup", "4:cpu:/\n" }, { "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n" },
				 { "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n" }),
		all);
	assert_int_equal(TREE({ "proc/self/cgroup", "4:cpuset:/\n" }, { "sys/fs/cgroup/cpuset/cpu.max", "50000 100000\n" }), all);
#undef TREE
	CPU_ZERO(&one);
	for (int i = 0; CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &set))
			CPU_SET(i, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(qd_processors(""), 1);
	assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fail_records_the_message),
		cmocka_unit_test(message_may_hold_the_message),
		cmocka_unit_test(message_is_one_printable_line),
		cmocka_unit_test(text_is_escaped_as_terminals_need),
		cmocka_unit_test(long_messages_are_cut),
		cmocka_unit_test(arithmetic_overflows_are_seen),
		cmocka_unit_test(arena_memory_is_zeroed_aligned_and_apart),
		cmocka_unit_test(arena_keeps_strings),
		cmocka_unit_test(arena_refuses_impossible_sizes),
		cmocka_unit_test(arrays_grow),
		cmocka_unit_test(map_behaves_like_a_table),
		cmocka_unit_test(map_copies_keys),
		cmocka_unit_test(prefixes_and_suffixes),
		cmocka_unit_test(mapping_shows_the_bytes),
		cmocka_unit_test(mapping_forgets_pages_of_files_only),
		cmocka_unit_test(mapping_refuses_what_is_no_file),
		cmocka_unit_test(paths_are_told_apart),
		cmocka_unit_test(hashes_are_those_of_xxhsum),
		cmocka_unit_test(lfs_pointers_are_known),
		cmocka_unit_test(hooks_are_called),
		cmocka_unit_test(quotas_bound_processors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
