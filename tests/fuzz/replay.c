/*
 * Gives every file named on the command line to the fuzz target it is linked with: the corpus as a test, without a fuzzer. A target
 * that is given no file fails: it would have been tried on nothing.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data = NULL;
	long size = -1;
	int failed = 1;

	if (file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0 && fseek(file, 0, SEEK_SET) == 0) {
		/* The exact size, so that the sanitizer sees a read past the end. */
		data = malloc(size ? (size_t)size : 1);
		if (data != NULL && fread(data, 1, (size_t)size, file) == (size_t)size) {
			LLVMFuzzerTestOneInput(data, (size_t)size);
			failed = 0;
		}
	}
	if (failed)
		fprintf(stderr, "cannot read '%s'\n", path);
	free(data);
	if (file != NULL)
		fclose(file);
	return failed;
}

int main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	printf("%d inputs replayed\n", argc - 1);
	if (argc < 2) {
		fprintf(stderr, "there are no inputs, needs at least one\n");
		failed = 1;
	}
	return failed;
}
