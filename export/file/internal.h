/*
 * What the files of an export folder share.
 */
#ifndef QUAD_EXPORT_FILE_INTERNAL_H
#define QUAD_EXPORT_FILE_INTERNAL_H

#include "export/file/file.h"

/* An adapter that lies in an export's folder. */
struct qd_exported_adapter {
	const char *name, *hash; /* of the source */
	double sqnr_db;          /* of its update, quantized */
	size_t slots;            /* that it fills; gain is 0 in the others */
};

/*
 * The manifest's document (see manifest.c). `folder` holds the files, whose sizes and hashes are taken; `g` is the float graph with
 * its LoRA inputs, `codes` the graph as written.
 */
QD_CHECK enum qd_status qd_manifest_make(const char *folder, const struct qd_graph *codes, const struct qd_profile *profile,
	const struct qd_export_options *options, json_t **out);
/* Adds or replaces adapters, and in the list of files those that are in `folder` (NULL: none). */
QD_CHECK enum qd_status qd_manifest_add_adapters(
	json_t *manifest, const char *folder, const struct qd_exported_adapter *adapters, size_t n);
/* QD_EINPUT when the manifest's profile, slots or ranks are not the profile's. */
QD_CHECK enum qd_status qd_manifest_check(
	const json_t *manifest, const char *path, const struct qd_profile *profile, const char *profile_path);

#endif
