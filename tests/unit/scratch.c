#include "tests/unit/scratch.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWERS = 8, PATH_BYTES = 4096 };

static char folder[PATH_BYTES];

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *walk)
{
	(void)info;
	(void)type;
	(void)walk;
	return remove(path);
}

static void remove_folder(void)
{
	nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_dir(void)
{
	if (folder[0])
		return folder;
	const char *base = getenv("TMPDIR");
	snprintf(folder, sizeof(folder), "%s/quad-test-XXXXXX", base != NULL ? base : "/tmp");
	if (mkdtemp(folder) == NULL) {
		perror(folder);
		exit(1);
	}
	atexit(remove_folder);
	return folder;
}

static char *answer(void)
{
	static char answers[ANSWERS][PATH_BYTES];
	static unsigned next;
	return answers[next++ % ANSWERS];
}

const char *scratch_path(const char *name)
{
	char *path = answer();
	int n = snprintf(path, PATH_BYTES, "%s/%s", scratch_dir(), name);
	return n < PATH_BYTES ? path : NULL;
}

const char *scratch_file(const char *name, const void *data, size_t bytes)
{
	const char *path = scratch_path(name);
	FILE *file = fopen(path, "wb");
	if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
		perror(path);
		exit(1);
	}
	return path;
}

const char *golden_path(const char *name)
{
	const char *base = getenv("QUAD_GOLDEN");
	char *path = answer();
	int n = snprintf(path, PATH_BYTES, "%s/%s", base != NULL ? base : "../shared/golden", name);
	return n < PATH_BYTES && access(path, R_OK) == 0 ? path : NULL;
}

unsigned long long test_seed(void)
{
	const char *text = getenv("SEED");
	unsigned long long seed = text != NULL ? strtoull(text, NULL, 10) : 1;
	printf("# seed %llu (SEED=)\n", seed);
	return seed;
}
