/*
 * lib/base, files out: nothing half-written is ever seen, nothing is lost that was there, nothing stays behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "tests/unit/scratch.h"

static void assert_content(const char *path, const char *want)
{
	struct qd_mapping mapping;
	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	assert_int_equal(mapping.size, strlen(want));
	assert_memory_equal(mapping.data, want, strlen(want));
	qd_mapping_release(&mapping);
}

static void assert_message_ends(const char *want)
{
	if (!qd_ends_with(qd_message(), want))
		fail_msg("'%s' does not end in '%s'", qd_message(), want);
}

/* Entries of a folder besides "." and "..". */
static int entries(const char *path)
{
	DIR *dir = opendir(path);
	assert_non_null(dir);
	int n = 0;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n - 2;
}

/* An empty folder of the test's own. */
static const char *own_folder(const char *name)
{
	const char *path = scratch_path(name);
	assert_int_equal(mkdir(path, 0777), 0);
	return path;
}

static const char *below(char *room, const char *folder, const char *name)
{
	assert_true(snprintf(room, 4200, "%s/%s", folder, name) < 4200);
	return room;
}

static char room_a[4200], room_b[4200];

static void file_appears_at_commit(void **state)
{
	(void)state;
	const char *folder = own_folder("commit"), *path = below(room_a, folder, "out.txt");
	struct qd_output out;
	assert_int_equal(qd_output_open(&out, path, false), QD_OK);
	assert_int_equal(qd_output_write(&out, "ab", 2), QD_OK);
	assert_int_equal(qd_output_printf(&out, "%d-%s", 7, "c"), QD_OK);
	assert_int_equal(out.written, 5);
	assert_false(qd_is_file(path));
	assert_int_equal(entries(folder), 1);
	assert_int_equal(qd_output_commit(&out), QD_OK);
	qd_output_release(&out);
	assert_content(path, "ab7-c");
	assert_int_equal(entries(folder), 1);
}

static void release_without_commit_leaves_nothing(void **state)
{
	(void)state;
	const char *folder = own_folder("release"), *path = below(room_a, folder, "out.txt");
	assert_int_equal(qd_write_file(path, "old", 3, false), QD_OK);
	struct qd_output out;
	assert_int_equal(qd_output_open(&out, path, true), QD_OK);
	assert_int_equal(qd_output_write(&out, "new", 3), QD_OK);
	qd_output_release(&out);
	qd_output_release(&out);
	assert_content(path, "old");
	assert_int_equal(entries(folder), 1);
}

static void zeroed_outputs_are_released_without_effect(void **state)
{
	(void)state;
	struct qd_output out = { 0 };
	struct qd_output_folder folder = { 0 };
	int before = fcntl(0, F_GETFD);
	qd_output_release(&out);
	qd_output_folder_release(&folder);
	assert_int_equal(fcntl(0, F_GETFD), before); /* descriptor 0 is not the output's */
}

static void existing_files_need_force(void **state)
{
	(void)state;
	const char *path = scratch_file("existing", "old", 3);
	assert_int_equal(qd_write_file(path, "new", 3, false), QD_EEXIST);
	assert_message_ends("existing' already exists; --force replaces it");
	assert_content(path, "old");
	assert_int_equal(qd_write_file(path, "new", 3, true), QD_OK);
	assert_content(path, "new");
}

static void a_file_that_appears_meanwhile_is_kept(void **state)
{
	(void)state;
	const char *folder = own_folder("race"), *path = below(room_a, folder, "out");
	struct qd_output out;
	assert_int_equal(qd_output_open(&out, path, false), QD_OK);
	assert_int_equal(qd_output_write(&out, "mine", 4), QD_OK);
	scratch_file("race/out", "theirs", 6);
	assert_int_equal(qd_output_commit(&out), QD_EEXIST);
	assert_message_ends("out' appeared while it was being written; --force replaces it");
	qd_output_release(&out);
	assert_content(path, "theirs");
	assert_int_equal(entries(folder), 1);
}

static void bad_targets_are_refused_at_once(void **state)
{
	(void)state;
	struct qd_output out;
	assert_int_equal(qd_output_open(&out, scratch_path("no/such/folder"), true), QD_EIO);
	assert_message_ends("no/such/folder': No such file or directory");
	assert_int_equal(qd_output_open(&out, scratch_dir(), true), QD_EIO);
	assert_message_ends("': it is a folder, needs a file name");
	assert_int_equal(qd_output_open(&out, "", true), QD_EIO);
	assert_string_equal(qd_message(), "cannot write a file without a name");
	scratch_file("plain", "x", 1);
	assert_int_equal(qd_output_open(&out, scratch_path("plain/below"), true), QD_EIO);
	assert_message_ends("plain/below': Not a directory");
}

static void permissions_follow_the_umask(void **state)
{
	(void)state;
	mode_t before = umask(027);
	const char *path = scratch_path("mode");
	assert_int_equal(qd_write_file(path, "x", 1, false), QD_OK);
	umask(before);
	struct stat info;
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 0777, 0640);
}

static void devices_are_written_to(void **state)
{
	(void)state;
	assert_int_equal(qd_write_file("/dev/null", "x", 1, false), QD_OK);
	struct stat info;
	assert_int_equal(stat("/dev/null", &info), 0);
	assert_true(S_ISCHR(info.st_mode));
}

static void a_full_device_is_one_line(void **state)
{
	(void)state;
	if (access("/dev/full", W_OK) != 0)
		skip();
	assert_int_equal(qd_write_file("/dev/full", "x", 1, false), QD_EIO);
	assert_string_equal(qd_message(), "cannot write '/dev/full': No space left on device");
}

/* A limit on file size makes write() return short, then fail: both must be handled, and nothing may stay. */
static void a_file_too_large_for_the_system_leaves_nothing(void **state)
{
	(void)state;
	const char *folder = own_folder("limit"), *path = below(room_a, folder, "out");
	static char data[300000];
	struct rlimit before, small = { 100000, 0 };
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small.rlim_max = before.rlim_max;
	void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	enum qd_status st = qd_write_file(path, data, sizeof(data), false);
	setrlimit(RLIMIT_FSIZE, &before);
	signal(SIGXFSZ, handler);
	assert_int_equal(st, QD_EIO);
	assert_message_ends("out': File too large");
	assert_int_equal(entries(folder), 0);
}

static void large_and_small_writes_keep_their_order(void **state)
{
	(void)state;
	enum { BYTES = 1000000 };
	static unsigned char data[BYTES];
	for (size_t i = 0; i < BYTES; i++)
		data[i] = (unsigned char)(i * 2654435761u >> 13);
	const char *path = scratch_path("order");
	struct qd_output out;
	assert_int_equal(qd_output_open(&out, path, false), QD_OK);
	static const size_t pieces[] = { 1, 65535, 65536, 3, 65537, 200000, 17, 0, 65536 };
	size_t at = 0;
	for (size_t i = 0; at < BYTES; i++) {
		size_t n = pieces[i % QD_COUNT(pieces)];
		n = n < BYTES - at ? n : BYTES - at;
		assert_int_equal(qd_output_write(&out, data + at, n), QD_OK);
		at += n;
	}
	assert_int_equal(qd_output_commit(&out), QD_OK);
	qd_output_release(&out);
	struct qd_mapping mapping;
	assert_int_equal(qd_mapping_open(&mapping, path), QD_OK);
	assert_int_equal(mapping.size, BYTES);
	assert_memory_equal(mapping.data, data, BYTES);
	qd_mapping_release(&mapping);
}

/* ---- folders ---- */

static void put(const struct qd_output_folder *out, const char *name, const char *text)
{
	assert_int_equal(qd_write_file(below(room_b, out->temporary, name), text, strlen(text), false), QD_OK);
}

static void folder_appears_whole(void **state)
{
	(void)state;
	const char *outer = own_folder("whole"), *path = below(room_a, outer, "export");
	struct qd_output_folder out;
	assert_int_equal(qd_output_folder_open(&out, path, false), QD_OK);
	put(&out, "a", "1");
	assert_int_equal(mkdir(below(room_b, out.temporary, "sub"), 0777), 0);
	put(&out, "sub/b", "2");
	assert_false(qd_is_directory(path));
	assert_int_equal(qd_output_folder_commit(&out), QD_OK);
	qd_output_folder_release(&out);
	assert_content(below(room_b, path, "sub/b"), "2");
	assert_content(below(room_b, path, ".quad-files.json"),
		"{\n  \"program\": \"quad\",\n  \"files\": [\n    {\n      \"path\": \"a\"\n    },\n    {\n      \"path\": "
		"\"sub/b\"\n    }\n  ]\n}\n");
	assert_int_equal(entries(outer), 1);
}

static void released_folders_vanish_with_what_is_in_them(void **state)
{
	(void)state;
	const char *outer = own_folder("vanish"), *path = below(room_a, outer, "export/");
	struct qd_output_folder out;
	assert_int_equal(qd_output_folder_open(&out, path, false), QD_OK);
	put(&out, "a", "1");
	assert_int_equal(mkdir(below(room_b, out.temporary, "sub"), 0777), 0);
	for (int i = 0; i < 200; i++) {
		char name[32];
		snprintf(name, sizeof(name), "sub/file-%d", i);
		put(&out, name, "x");
	}
	qd_output_folder_release(&out);
	assert_int_equal(entries(outer), 0);
}

static void links_in_a_folder_are_not_followed(void **state)
{
	(void)state;
	const char *outer = own_folder("links"), *path = below(room_a, outer, "export");
	const char *kept = own_folder("kept");
	scratch_file("kept/file", "x", 1);
	struct qd_output_folder out;
	assert_int_equal(qd_output_folder_open(&out, path, false), QD_OK);
	assert_int_equal(symlink(kept, below(room_b, out.temporary, "link")), 0);
	qd_output_folder_release(&out);
	assert_int_equal(entries(outer), 0);
	assert_int_equal(entries(kept), 1);
}

/* Writes the folder `path` with the one file `name`. */
static void make_folder(const char *path, const char *name, bool force)
{
	struct qd_output_folder out;
	assert_int_equal(qd_output_folder_open(&out, path, force), QD_OK);
	put(&out, name, "x");
	assert_int_equal(qd_output_folder_commit(&out), QD_OK);
	qd_output_folder_release(&out);
}

static void older_folders_are_replaced_with_force_only(void **state)
{
	(void)state;
	const char *outer = own_folder("older"), *path = below(room_a, outer, "export");
	make_folder(path, "old", false);
	struct qd_output_folder out;
	assert_int_equal(qd_output_folder_open(&out, path, false), QD_EEXIST);
	assert_message_ends("export' already exists; --force replaces it");
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_OK);
	put(&out, "new", "y");
	assert_true(qd_is_file(below(room_b, path, "old")));
	assert_int_equal(qd_output_folder_commit(&out), QD_OK);
	qd_output_folder_release(&out);
	assert_false(qd_is_file(below(room_b, path, "old")));
	assert_content(below(room_b, path, "new"), "y");
	assert_int_equal(entries(outer), 1);
}

/* A folder without an index, one with a file more than its index, a file in a folder in it, a link, somebody else's manifest. */
static void what_others_wrote_is_not_replaced(void **state)
{
	(void)state;
	const char *outer = own_folder("others"), *path = below(room_a, outer, "model");
	struct qd_output_folder out;
	assert_int_equal(mkdir(path, 0777), 0);
	scratch_file("others/model/notes", "x", 1);
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_EEXIST);
	assert_message_ends("model' holds 'notes', which this program did not write: it is not replaced, choose another name");
	assert_int_equal(unlink(below(room_b, path, "notes")), 0);
	make_folder(path, "old", true);
	assert_int_equal(mkdir(below(room_b, path, "sub"), 0777), 0);
	make_folder(path, "old", true);
	assert_int_equal(mkdir(below(room_b, path, "sub"), 0777), 0);
	scratch_file("others/model/sub/notes", "x", 1);
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_EEXIST);
	assert_non_null(strstr(qd_message(), "holds 'sub/notes'"));
	assert_int_equal(unlink(below(room_b, path, "sub/notes")), 0);
	assert_int_equal(unlink(below(room_b, path, "old")), 0);
	assert_int_equal(symlink("/", below(room_b, path, "old")), 0);
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_EEXIST);
	assert_non_null(strstr(qd_message(), "holds 'old'"));
	assert_int_equal(unlink(below(room_b, path, "old")), 0);
	assert_int_equal(unlink(below(room_b, path, ".quad-files.json")), 0);
	const char *manifest = "{\"program\": \"another\", \"files\": []}";
	scratch_file("others/model/manifest.json", manifest, strlen(manifest));
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_EEXIST);
	assert_non_null(strstr(qd_message(), "holds 'manifest.json'"));
	assert_int_equal(entries(path), 2);
	assert_int_equal(entries(outer), 1);
}

static void what_others_put_there_meanwhile_is_not_replaced(void **state)
{
	(void)state;
	const char *outer = own_folder("meanwhile"), *path = below(room_a, outer, "model");
	struct qd_output_folder out;
	make_folder(path, "old", false);
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_OK);
	scratch_file("meanwhile/model/notes", "x", 1);
	assert_int_equal(qd_output_folder_commit(&out), QD_EEXIST);
	qd_output_folder_release(&out);
	assert_int_equal(entries(path), 3);
	assert_int_equal(entries(outer), 1);
}

/* However it is spelled: through links, from below, with dots, before it is there. */
static void outputs_keep_apart_from_inputs(void **state)
{
	(void)state;
	const struct {
		const char *output, *input, *says; /* NULL: may be written */
	} cases[] = {
		{ "apart/in/file", "apart/in/file", "is an input, it cannot be the output too" },
		{ "apart/link/file", "apart/in/file", "is the input" },
		{ "apart/in/../in/file", "apart/link/file", "is the input" },
		{ "apart/hard", "apart/in/file", "is the input" },
		{ "apart/in", "apart/link", "is the input" },
		{ "apart/in", "apart/in/sub/file", "holds the input" },
		{ "apart/link", "apart/in/sub", "holds the input" },
		{ "apart", "apart/link/sub/file", "holds the input" },
		{ "apart/in/new", "apart/link", "lies in the input" },
		{ "apart/link/sub/new/", "apart/in", "lies in the input" },
		{ "apart/to-new", "apart/in", "lies in the input" },
		{ "apart/in/sub/file", "apart", "lies in the input" },
		{ "apart/in/new", "apart/in/file", NULL },
		{ "apart/in2", "apart/in", NULL },
		{ "apart/new", "apart/in/sub", NULL },
		{ "apart/in/sub", "apart/in/file", NULL },
		{ "apart/new", "apart/none", NULL },
		{ "apart/none/new", "apart/in", NULL },
	};
	char output[4200], input[4200];
	own_folder("apart");
	own_folder("apart/in");
	own_folder("apart/in/sub");
	scratch_file("apart/in/file", "x", 1);
	scratch_file("apart/in/sub/file", "x", 1);
	assert_int_equal(link(scratch_path("apart/in/file"), scratch_path("apart/hard")), 0);
	assert_int_equal(symlink("in", scratch_path("apart/link")), 0);
	assert_int_equal(symlink("in/new", scratch_path("apart/to-new")), 0);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		enum qd_status st = qd_output_check_apart(
			below(output, scratch_dir(), cases[i].output), below(input, scratch_dir(), cases[i].input));
		if (st != (cases[i].says != NULL ? QD_EINPUT : QD_OK))
			fail_msg("%s for %s: %s", cases[i].output, cases[i].input, qd_message());
		if (cases[i].says != NULL && strstr(qd_message(), cases[i].says) == NULL)
			fail_msg("%s for %s: '%s'", cases[i].output, cases[i].input, qd_message());
	}
}

static void force_is_no_matter_where_nothing_is(void **state)
{
	(void)state;
	const char *path = scratch_path("forced");
	struct qd_output_folder out;
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_OK);
	assert_int_equal(qd_output_folder_commit(&out), QD_OK);
	qd_output_folder_release(&out);
	assert_true(qd_is_directory(path));
}

static void bad_folder_targets_are_refused(void **state)
{
	(void)state;
	struct qd_output_folder out;
	const char *path = scratch_file("a-file", "x", 1);
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_EIO);
	assert_message_ends("a-file': it is not a folder");
	assert_int_equal(qd_output_folder_open(&out, scratch_path("x/.."), true), QD_EIO);
	assert_message_ends("x/..': it has no name of its own");
	assert_int_equal(qd_output_folder_open(&out, "/", true), QD_EIO);
	assert_string_equal(qd_message(), "cannot write the folder '/': it has no name of its own");
	assert_int_equal(qd_output_folder_open(&out, scratch_path("no/such"), true), QD_EIO);
	assert_message_ends("no/such': No such file or directory");
}

/* ---- interruption ---- */

static void on_signal(int number)
{
	qd_outputs_abandon();
	_exit(128 + number);
}

/* A child with an open file, a committed file and an open folder is interrupted: only the committed file is left. */
static void a_signal_leaves_only_what_was_committed(void **state)
{
	(void)state;
	const char *outer = own_folder("signal");
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct qd_output a, b;
		struct qd_output_folder c;
		signal(SIGTERM, on_signal);
		bool ready = qd_output_open(&a, below(room_a, outer, "a"), false) == QD_OK &&
			     qd_output_open(&b, below(room_a, outer, "b"), false) == QD_OK && qd_output_commit(&b) == QD_OK &&
			     qd_output_folder_open(&c, below(room_a, outer, "c"), false) == QD_OK &&
			     mkdir(below(room_b, c.temporary, "sub"), 0777) == 0 &&
			     qd_write_file(below(room_b, c.temporary, "sub/d"), "x", 1, false) == QD_OK;
		if (ready)
			raise(SIGTERM);
		_exit(1);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 128 + SIGTERM);
	assert_int_equal(entries(outer), 1);
	assert_true(qd_is_file(below(room_a, outer, "b")));
}

/* ---- leftovers ---- */

/* A child that has a file and a folder open in `folder`, and waits. */
static pid_t start_writer(const char *folder)
{
	int ready[2];
	char byte;
	pid_t child;
	assert_int_equal(pipe(ready), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		struct qd_output a;
		struct qd_output_folder b;
		if (qd_output_open(&a, below(room_b, folder, "a"), false) != QD_OK ||
			qd_output_folder_open(&b, below(room_b, folder, "b"), false) != QD_OK ||
			qd_write_file(below(room_b, b.temporary, "c"), "x", 1, false) != QD_OK || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static void leftovers_of_the_killed_are_removed_and_no_others(void **state)
{
	(void)state;
	const char *outer = own_folder("leftovers");
	pid_t living = start_writer(outer), killed = start_writer(outer);
	int status;
	scratch_file("leftovers/.mine.quad-abc12", "x", 1);
	scratch_file("leftovers/mine.quad-abc123", "x", 1);
	scratch_file("leftovers/.mine.quad-abC123", "x", 1);
	assert_int_equal(entries(outer), 4 + 3);
	qd_leftovers_remove(outer);
	assert_int_equal(entries(outer), 4 + 3);
	kill(killed, SIGKILL);
	assert_int_equal(waitpid(killed, &status, 0), killed);
	assert_int_equal(entries(outer), 4 + 3);
	assert_int_equal(qd_write_file(below(room_a, outer, "new"), "x", 1, false), QD_OK);
	assert_int_equal(entries(outer), 2 + 3 + 1);
	kill(living, SIGKILL);
	assert_int_equal(waitpid(living, &status, 0), living);
	qd_leftovers_remove(outer);
	assert_int_equal(entries(outer), 3 + 1);
}

static void links_lead_to_what_is_written(void **state)
{
	(void)state;
	const char *outer = own_folder("linked"), *path = below(room_a, outer, "link");
	struct qd_output_folder out;
	struct stat info;
	own_folder("linked/there");
	assert_int_equal(symlink("there/file", path), 0);
	for (int force = 0; force < 2; force++) {
		assert_int_equal(qd_write_file(path, force ? "new" : "old", 3, force), QD_OK);
		assert_true(lstat(path, &info) == 0 && S_ISLNK(info.st_mode));
		assert_content(below(room_b, outer, "there/file"), force ? "new" : "old");
	}
	assert_int_equal(qd_write_file(path, "newer", 5, false), QD_EEXIST);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("there/folder", path), 0);
	make_folder(path, "old", false);
	make_folder(below(room_a, outer, "link/"), "new", true);
	assert_content(below(room_b, outer, "there/folder/new"), "x");
	assert_int_equal(entries(outer), 2);
	path = below(room_a, outer, "circle");
	assert_int_equal(symlink("circle", path), 0);
	assert_int_equal(qd_output_folder_open(&out, path, true), QD_EIO);
	assert_message_ends("circle': Too many levels of symbolic links");
}

/* ---- changes of several files ---- */

/* What is moved to its place stays in the folder, whatever lies in the way. */
static void updates_do_not_leave_the_folder(void **state)
{
	(void)state;
	const char *outer = own_folder("update"), *elsewhere = own_folder("elsewhere");
	own_folder("update/.quad-update");
	own_folder("update/.quad-update/sub");
	scratch_file("update/.quad-update/sub/file", "x", 1);
	assert_int_equal(symlink(elsewhere, below(room_a, outer, "sub")), 0);
	assert_int_equal(qd_output_update_settle(outer), QD_EIO);
	assert_message_ends("to its place: Not a directory");
	assert_int_equal(entries(elsewhere), 0);
	assert_int_equal(unlink(below(room_a, outer, "sub")), 0);
	assert_int_equal(qd_output_update_settle(outer), QD_OK);
	assert_content(below(room_a, outer, "sub/file"), "x");
	assert_int_equal(entries(outer), 1);
	assert_int_equal(qd_output_update_settle(below(room_a, outer, "none")), QD_OK);
}

/* ---- files that become shorter ---- */

static void shrunk_files_are_known_by_name(void **state)
{
	enum { BYTES = 1 << 20 };
	(void)state;
	const char *folder = own_folder("shrunk"), *path = below(room_a, folder, "out");
	static char data[BYTES];
	struct qd_mapping mapping, other;
	struct qd_output out;
	scratch_file("shrunk/in", data, BYTES);
	scratch_file("shrunk/other", "x", 1);
	assert_int_equal(qd_mapping_open(&mapping, below(room_b, folder, "in")), QD_OK);
	assert_int_equal(qd_mapping_open(&other, scratch_path("shrunk/other")), QD_OK);
	assert_string_equal(qd_mapping_path(mapping.data), room_b);
	assert_string_equal(qd_mapping_path(mapping.data + BYTES - 1), room_b);
	assert_string_equal(qd_mapping_path(other.data), scratch_path("shrunk/other"));
	assert_null(qd_mapping_path(data));
	assert_int_equal(qd_output_open(&out, path, false), QD_OK);
	assert_int_equal(truncate(room_b, 0), 0);
	assert_int_equal(qd_output_write(&out, mapping.data, BYTES), QD_EIO);
	assert_message_ends("out': a file that it is made from became shorter meanwhile");
	qd_output_release(&out);
	const unsigned char *where = other.data;
	qd_mapping_release(&other);
	assert_null(qd_mapping_path(where));
	assert_string_equal(qd_mapping_path(mapping.data), room_b);
	qd_mapping_release(&mapping);
	assert_int_equal(entries(folder), 2);
}

/* ---- paths ---- */

static void paths_that_are_too_long_are_refused(void **state)
{
	char path[QD_PATH_BYTES], name[QD_PATH_BYTES + 10];
	(void)state;
	memset(name, 'a', sizeof(name));
	name[QD_PATH_BYTES - 4] = '\0';
	assert_int_equal(qd_path_join(path, "b", "%s-%d", name, 1), QD_EIO);
	assert_string_equal(path, "");
	assert_int_equal(qd_path_join(path, name, "%s", "abc"), QD_EIO);
	assert_string_equal(path, "");
	assert_int_equal(qd_path_join(path, "b", "%s", name), QD_OK);
	assert_int_equal(strlen(path), QD_PATH_BYTES - 2);
	assert_false(qd_has_file(name, "x"));
	assert_int_equal(qd_path_join(path, "a/b", "%s-%02d", "c", 7), QD_OK);
	assert_string_equal(path, "a/b/c-07");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_appears_at_commit),
		cmocka_unit_test(release_without_commit_leaves_nothing),
		cmocka_unit_test(zeroed_outputs_are_released_without_effect),
		cmocka_unit_test(existing_files_need_force),
		cmocka_unit_test(a_file_that_appears_meanwhile_is_kept),
		cmocka_unit_test(bad_targets_are_refused_at_once),
		cmocka_unit_test(permissions_follow_the_umask),
		cmocka_unit_test(devices_are_written_to),
		cmocka_unit_test(a_full_device_is_one_line),
		cmocka_unit_test(a_file_too_large_for_the_system_leaves_nothing),
		cmocka_unit_test(large_and_small_writes_keep_their_order),
		cmocka_unit_test(folder_appears_whole),
		cmocka_unit_test(released_folders_vanish_with_what_is_in_them),
		cmocka_unit_test(links_in_a_folder_are_not_followed),
		cmocka_unit_test(older_folders_are_replaced_with_force_only),
		cmocka_unit_test(what_others_wrote_is_not_replaced),
		cmocka_unit_test(what_others_put_there_meanwhile_is_not_replaced),
		cmocka_unit_test(outputs_keep_apart_from_inputs),
		cmocka_unit_test(force_is_no_matter_where_nothing_is),
		cmocka_unit_test(bad_folder_targets_are_refused),
		cmocka_unit_test(a_signal_leaves_only_what_was_committed),
		cmocka_unit_test(leftovers_of_the_killed_are_removed_and_no_others),
		cmocka_unit_test(links_lead_to_what_is_written),
		cmocka_unit_test(updates_do_not_leave_the_folder),
		cmocka_unit_test(shrunk_files_are_known_by_name),
		cmocka_unit_test(paths_that_are_too_long_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
