/*
 * Files in: whole files mapped for reading, what kind of thing a path is, and content hashes (XXH3, 128 bits, printed like
 * `xxhsum -H2` prints them: the canonical, big-endian form).
 */
#include "lib/base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

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
	if (mapping->size)
		munmap((void *)(uintptr_t)mapping->data, mapping->size);
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
