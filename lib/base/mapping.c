/*
 * Files in: whole files mapped for reading, what kind of thing a path is, and content hashes (XXH3, 128 bits, printed like
 * `xxhsum -H2` prints them: the canonical, big-endian form).
 */
#include "lib/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Which addresses are mapped files, sorted by nothing: there are few. */
static struct {
	pthread_mutex_t lock;
	struct qd_mapping *files;
	size_t n, cap;
} mapped = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* A file that is not noted down is only never forgotten, so that running out of memory here is no failure. */
static void note_mapping(const struct qd_mapping *mapping)
{
	pthread_mutex_lock(&mapped.lock);
	if (mapped.n == mapped.cap) {
		size_t cap = mapped.cap ? 2 * mapped.cap : 16;
		struct qd_mapping *files = realloc(mapped.files, cap * sizeof(*files));
		if (files != NULL) {
			mapped.files = files;
			mapped.cap = cap;
		}
	}
	if (mapped.n < mapped.cap)
		mapped.files[mapped.n++] = *mapping;
	pthread_mutex_unlock(&mapped.lock);
}

static void drop_mapping(const struct qd_mapping *mapping)
{
	pthread_mutex_lock(&mapped.lock);
	for (size_t i = 0; i < mapped.n; i++)
		if (mapped.files[i].data == mapping->data) {
			mapped.files[i] = mapped.files[--mapped.n];
			break;
		}
	if (mapped.n == 0) {
		free(mapped.files);
		mapped.files = NULL;
		mapped.cap = 0;
	}
	pthread_mutex_unlock(&mapped.lock);
}

void qd_mapping_forget(const void *data, size_t bytes)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)data + page - 1) / page * page,
		  end = ((uintptr_t)data + bytes) / page * page;

	pthread_mutex_lock(&mapped.lock);
	for (size_t i = 0; i < mapped.n && first < end; i++) {
		uintptr_t start = (uintptr_t)mapped.files[i].data;
		if (start <= (uintptr_t)data && (uintptr_t)data + bytes <= start + mapped.files[i].size)
			(void)madvise((void *)first, end - first, MADV_DONTNEED);
	}
	pthread_mutex_unlock(&mapped.lock);
}

static enum qd_status map_descriptor(struct qd_mapping *mapping, const char *path, int fd)
{
	struct stat info;
	if (fstat(fd, &info) != 0)
		return qd_fail(QD_EIO, "cannot read '%s': %s", path, strerror(errno));
	if (S_ISDIR(info.st_mode))
		return qd_fail(QD_EIO, "cannot read '%s': it is a folder, needs a file", path);
	if (!S_ISREG(info.st_mode))
		return qd_fail(QD_EIO, "cannot read '%s': not a regular file", path);
	if (info.st_size == 0) {
		*mapping = (struct qd_mapping){ .data = (const unsigned char *)"" };
		return QD_OK;
	}
	void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		return qd_fail(QD_EIO, "cannot map '%s': %s", path, strerror(errno));
	*mapping = (struct qd_mapping){ .data = data, .size = (size_t)info.st_size };
	note_mapping(mapping);
	return QD_OK;
}

enum qd_status qd_mapping_open(struct qd_mapping *mapping, const char *path)
{
	*mapping = (struct qd_mapping){ 0 };
	/* O_NONBLOCK: opening a pipe by mistake must fail below, not wait for a writer. It means nothing for regular files. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return qd_fail(QD_EIO, "cannot read '%s': %s", path, strerror(errno));
	enum qd_status st = map_descriptor(mapping, path, fd);
	close(fd);
	return st;
}

void qd_mapping_release(struct qd_mapping *mapping)
{
	if (mapping->size) {
		drop_mapping(mapping);
		munmap((void *)(uintptr_t)mapping->data, mapping->size);
	}
	*mapping = (struct qd_mapping){ 0 };
}

bool qd_is_directory(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool qd_is_file(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool qd_is_lfs_pointer(const void *data, size_t bytes)
{
	static const char start[] = "version https://git-lfs";
	return bytes >= sizeof(start) - 1 && memcmp(data, start, sizeof(start) - 1) == 0;
}

void qd_hash_bytes(const void *data, size_t bytes, char *out)
{
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, bytes));
	int used = snprintf(out, QD_HASH_TEXT, "xxh3-128:");
	for (size_t i = 0; i < sizeof(canonical.digest); i++)
		used += snprintf(out + used, QD_HASH_TEXT - (size_t)used, "%02x", canonical.digest[i]);
}

enum qd_status qd_hash_file(const char *path, char *out)
{
	struct qd_mapping mapping = { 0 };
	enum qd_status st = qd_mapping_open(&mapping, path);
	if (st == QD_OK)
		qd_hash_bytes(mapping.data, mapping.size, out);
	qd_mapping_release(&mapping);
	return st;
}
