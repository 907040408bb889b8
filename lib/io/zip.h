/*
 * Members of a zip archive in memory, as far as NumPy's .npz needs them. Private to lib/io; zip.c describes the bytes and is the
 * one file that calls zlib.
 */
#ifndef QUAD_LIB_IO_ZIP_H
#define QUAD_LIB_IO_ZIP_H

#include "lib/base/base.h"

struct qd_zip_member {
	const char *name;          /* in the arena */
	const unsigned char *data; /* in the archive */
	size_t begin;              /* of its local header in the archive */
	size_t packed, bytes;      /* in the archive, and unpacked */
	bool deflated;             /* false: stored, the data is the member itself */
	uint32_t crc;
};
struct qd_zip {
	struct qd_zip_member *members; /* in the order of the directory; owned */
	size_t n, cap;
};
/* Lists an archive, whose bytes must outlive `zip`. QD_EINPUT, QD_EUNSUPPORTED, QD_ENOMEM. */
QD_CHECK enum qd_status qd_zip_open(struct qd_zip *zip, struct qd_arena *arena, const unsigned char *data, size_t bytes);
void qd_zip_release(struct qd_zip *zip);
/* Unpacks a deflated member into heap memory and checks its sum. QD_EINPUT, QD_ENOMEM. */
QD_CHECK enum qd_status qd_zip_inflate(const struct qd_zip_member *member, void **out);

#endif
