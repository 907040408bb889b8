/*
 * For tests of single-file checkpoints: the tensors of a UNet under both spellings, counted off layer by layer as the original
 * implementation's constructor appends them. Included after <cmocka.h>.
 */
#ifndef QUAD_TESTS_UNIT_LDM_HELP_H
#define QUAD_TESTS_UNIT_LDM_HELP_H

#include "lib/model/model.h"

/* What the original constructor is given, with values per level (0: the highest resolution). */
struct help_ldm {
	int64_t in, out, channels; /* of conv_in's input, conv_out's output, level 0 */
	int levels;
	int64_t mult[8];
	int layers;      /* resnets per level */
	int depth[8][4]; /* transformer blocks by level and layer; 0 in the first: the level has no transformers */
	int up_depth[8][4];
	int mid_depth;          /* 0: no transformer in the middle, -1: no middle */
	int64_t context, added; /* features; added 0: none */
	bool linear;
};
/* Depths of a level and of the way up over it all alike. */
void help_ldm_depth(struct help_ldm *net, int level, int depth);

enum { LDM_TENSORS = 2048 };
struct help_names {
	char original[LDM_TENSORS][128], diffusers[LDM_TENSORS][128]; /* without the checkpoint's prefix */
	struct qd_shape shapes[LDM_TENSORS];
	size_t n;
};
/* The caller frees it. */
struct help_names *help_ldm_names(const struct help_ldm *net);

/* The published networks, and the golden "tiny15" and "tinyxl". */
struct help_ldm help_ldm_of(const char *name);
/* Their UNet2DConditionModel fields. */
const char *help_ldm_config(const char *name);

/*
 * Writes a file of these names, F16, of which nothing is stored: a hole of the right length. `prefix` goes before the original
 * names; a tensor is left out, added or given another shape or type through `edit`, which may be NULL.
 */
struct help_edit {
	const char *without, *with, *reshaped, *retyped;
	struct qd_shape shape; /* of `with` and `reshaped` */
};
const char *help_ldm_hole(const char *file, const struct help_names *names, const char *prefix, const struct help_edit *edit);

/* Writes an opened folder's weights as such a file, with some VAE and text tensors beside them, and its config beside that. */
const char *help_ldm_write(const char *file, const struct qd_model *model, const struct help_names *names, bool config);

#endif
