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

/*
 * Which addresses are mapped files. Records are linked once and used again, never freed, because a signal handler may walk the list
 * at any moment: `size` is 0 in one that is free, and is set last.
 */
struct mapped {
	struct mapped *next;
	const unsigned char *data;
	char *path;
	volatile size_t size;
};
static struct mapped *volatile all;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A file that is not noted down is only never forgotten, and not called by its name, so that running out of memory is no failure. */
static void note_mapping(const struct qd_mapping *mapping, const char *path)
{
	struct mapped *m;

	pthread_mutex_lock(&lock);
	for (m = all; m != NULL && m->size > 0;)
		m = m->next;
	if (m == NULL && (m = calloc(1, sizeof(*m))) != NULL) {
		m->next = all;
		all = m;
	}
	if (m != NULL) {
		m->data = mapping->data;
		m->path = strdup(path);
		m->size = mapping->size;
	}
	pthread_mutex_unlock(&lock);
}

static void drop_mapping(const struct qd_mapping *mapping)
{
	pthread_mutex_lock(&lock);
	for (struct mapped *m = all; m != NULL; m = m->next)
		if (m->size > 0 && m->data == mapping->data) {
			m->size = 0;
			free(m->path);
			m->path = NULL;
			break;
		}
	pthread_mutex_unlock(&lock);
}

const char *qd_mapping_path(const void *address)
{
	for (const struct mapped *m = all; m != NULL; m = m->next)
		if (m->size > 0 && (const unsigned char *)address >= m->data &&
			(size_t)((const unsigned char *)address - m->data) < m->size)
			return m->path;
	return NULL;
}

void qd_mapping_forget(const void *data, size_t bytes)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)data + page - 1) / page * page,
		  end = ((uintptr_t)data + bytes) / page * page;

	pthread_mutex_lock(&lock);
	for (const struct mapped *m = all; m != NULL && first < end; m = m->next) {
		uintptr_t start = (uintptr_t)m->data;
		if (start <= (uintptr_t)data && (uintptr_t)data + bytes <= start + m->size)
			(void)madvise((void *)first, end - first, MADV_DONTNEED);
	}
	pthread_mutex_unlock(&lock);
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
	note_mapping(mapping, path);
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
