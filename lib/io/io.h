/*
 * lib/io: bytes to tensors and back. Element types, shapes, tensors (a typed view of bytes and who owns them), safetensors, npy,
 * pictures. Readers map files and hand out views; nothing is copied that can stay mapped. Sizes found in files are checked with
 * overflow-checked arithmetic against the file's length before use.
 *
 * A picture format more: its file, its declaration in picture.h and its row in picture.c; what is not known by its first bytes yet,
 * in the list below and in kind.c; endings of its names in lib/data/image_folder.c. A library more: the lists in Makefile,
 * scripts/install-deps.sh and scripts/check-layers.sh.
 */
#ifndef QUAD_LIB_IO_IO_H
#define QUAD_LIB_IO_IO_H

#include "lib/base/base.h"

#include <stdio.h>

/* ---- element types: X(id, safetensors name, bits, ONNX TensorProto.DataType or 0) ---- */
#define QD_DTYPE_LIST(X)                                                                                                           \
	X(F32, "F32", 32, 1)                                                                                                       \
	X(F16, "F16", 16, 10)                                                                                                      \
	X(BF16, "BF16", 16, 16)                                                                                                    \
	X(F64, "F64", 64, 11)                                                                                                      \
	X(I8, "I8", 8, 3)                                                                                                          \
	X(U8, "U8", 8, 2)                                                                                                          \
	X(I16, "I16", 16, 5)                                                                                                       \
	X(U16, "U16", 16, 4)                                                                                                       \
	X(I32, "I32", 32, 6)                                                                                                       \
	X(U32, "U32", 32, 12)                                                                                                      \
	X(I64, "I64", 64, 7)                                                                                                       \
	X(U64, "U64", 64, 13)                                                                                                      \
	X(BOOL, "BOOL", 8, 9)                                                                                                      \
	X(F8_E4M3, "F8_E4M3", 8, 17)                                                                                               \
	X(F8_E5M2, "F8_E5M2", 8, 19)                                                                                               \
	X(F8_E8M0, "F8_E8M0", 8, 0)                                                                                                \
	X(F8_E4M3FNUZ, "F8_E4M3FNUZ", 8, 18)                                                                                       \
	X(F8_E5M2FNUZ, "F8_E5M2FNUZ", 8, 20)                                                                                       \
	X(F6_E2M3, "F6_E2M3", 6, 0)                                                                                                \
	X(F6_E3M2, "F6_E3M2", 6, 0)                                                                                                \
	X(F4, "F4", 4, 0)                                                                                                          \
	X(C64, "C64", 64, 14)

enum qd_dtype {
#define QD_DTYPE_ENUM(id, name, bits, onnx) QD_##id,
	QD_DTYPE_LIST(QD_DTYPE_ENUM)
#undef QD_DTYPE_ENUM
		QD_DTYPE_COUNT
};
const char *qd_dtype_name(enum qd_dtype dtype);
unsigned qd_dtype_bits(enum qd_dtype dtype);
int qd_dtype_onnx(enum qd_dtype dtype);
/* QD_DTYPE_COUNT when unknown. */
enum qd_dtype qd_dtype_by_name(const char *name);
enum qd_dtype qd_dtype_by_onnx(int onnx);

/* ---- shapes ---- */
#define QD_MAX_RANK 8
struct qd_shape {
	int rank; /* 0 is a scalar */
	int64_t dim[QD_MAX_RANK];
};
#define QD_SHAPE(...) ((struct qd_shape){ (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), { __VA_ARGS__ } })
int64_t qd_shape_elements(const struct qd_shape *shape);
bool qd_shape_equal(const struct qd_shape *a, const struct qd_shape *b);
/* "[1,4,64,64]" into a buffer of QD_SHAPE_TEXT bytes; returns it. */
#define QD_SHAPE_TEXT 192
char *qd_shape_text(const struct qd_shape *shape, char *buffer);
/*
 * Bytes of a tensor of this shape and type, all products checked in order in 64 bits. QD_EINPUT: rank, a negative dimension,
 * overflow, elements of less than a byte that do not fill whole bytes. The message names the shape, the caller prefixes whose it
 * is.
 */
QD_CHECK enum qd_status qd_shape_bytes(const struct qd_shape *shape, enum qd_dtype dtype, size_t *out);

/* ---- tensors ---- */
/* Row-major. `data` may be unaligned when it points into a mapped file: read it through qd_tensor_to_f32 or memcpy. */
struct qd_tensor {
	const char *name; /* may be NULL; not owned */
	enum qd_dtype dtype;
	struct qd_shape shape;
	void *data;
	size_t bytes;
	bool owned; /* qd_tensor_release frees data */
};
/* A zeroed tensor that owns its bytes. QD_ENOMEM; QD_EINPUT when the size overflows. */
QD_CHECK enum qd_status qd_tensor_new(
	struct qd_tensor *tensor, const char *name, enum qd_dtype dtype, const struct qd_shape *shape);
/* A view of caller's bytes. */
struct qd_tensor qd_tensor_view(const char *name, enum qd_dtype dtype, struct qd_shape shape, const void *data);
void qd_tensor_release(struct qd_tensor *tensor);
/* Converts all elements to float32. F32, F16, BF16, F64, all integers up to 32 bits, I64 and BOOL; else QD_EUNSUPPORTED naming
 * tensor and dtype. */
QD_CHECK enum qd_status qd_tensor_to_f32(const struct qd_tensor *tensor, float *out);
/* Rounds float32 to `tensor`'s dtype (F32, F16, BF16; to nearest, ties to even). */
QD_CHECK enum qd_status qd_tensor_from_f32(struct qd_tensor *tensor, const float *in);
/*
 * QD_EINPUT naming the tensor and the first bad element's index when any element is NaN or infinite; `where` (may be NULL) prefixes
 * it. Types without such values pass.
 */
QD_CHECK enum qd_status qd_tensor_check_finite(const struct qd_tensor *tensor, const char *where);
/* Smallest and largest finite value of `n`, and how many are NaN or infinite; zero it to begin. */
struct qd_extent {
	float low, high;
	uint64_t n, bad;
};
/* Widens `range` by a tensor's values. QD_EUNSUPPORTED for types that qd_tensor_to_f32 does not convert. */
QD_CHECK enum qd_status qd_extent_add(struct qd_extent *range, const struct qd_tensor *tensor);
/* What identifies a tensor, as a line of text: "NAME DTYPE SHAPE HASH\n", the hash that of its bytes. */
void qd_tensor_print(const struct qd_tensor *tensor, FILE *text);
float qd_f16_to_f32(uint16_t bits);
uint16_t qd_f32_to_f16(float value);

/* ---- safetensors (the format's bytes are described in safetensors.c) ---- */
struct qd_safetensors {
	char *path;
	struct qd_mapping mapping;
	struct qd_tensor *tensors; /* views into the mapping, in the file's data order */
	size_t n;
	struct qd_strmap by_name;
	struct qd_arena arena;
	const char **metadata; /* key, value, key, value, ...; NUL-terminated strings */
	size_t n_metadata;     /* pairs */
};
/* QD_EIO; QD_EINPUT naming the file and what is wrong (a Git-LFS pointer is called that). */
QD_CHECK enum qd_status qd_safetensors_open(struct qd_safetensors *file, const char *path);
/* The same from memory (fuzzing, tests); `data` must outlive `file`. */
QD_CHECK enum qd_status qd_safetensors_parse(struct qd_safetensors *file, const char *name, const void *data, size_t bytes);
const struct qd_tensor *qd_safetensors_find(const struct qd_safetensors *file, const char *name);
/* The tensor, or QD_EINPUT "'FILE' has no tensor 'NAME'". */
QD_CHECK enum qd_status qd_safetensors_get(const struct qd_safetensors *file, const char *name, const struct qd_tensor **out);
/* The value of a metadata key, or NULL. */
const char *qd_safetensors_metadata(const struct qd_safetensors *file, const char *key);
void qd_safetensors_release(struct qd_safetensors *file);

/*
 * Writes tensors in the order of the reference writer (decreasing alignment, then name), header padded to 8 bytes, through
 * qd_output. `fill` is called once per tensor, in file order, for tensors whose data is NULL: it writes tensor i (index into
 * `tensors`) into `buffer` of tensors[i].bytes bytes, so that a file larger than memory can be streamed. `metadata` is key, value
 * pairs, may be NULL. Same input, same bytes.
 */
typedef enum qd_status (*qd_fill)(void *context, size_t i, void *buffer);
QD_CHECK enum qd_status qd_safetensors_write(const char *path, const struct qd_tensor *tensors, size_t n,
	const char *const *metadata, size_t n_metadata, bool force, qd_fill fill, void *context);

/* ---- npy (NumPy format 1.0 to 3.0) ---- */
/*
 * `out` is a view into `data` and has no name; `name` is for messages. `column_major` tells that the elements lie so: the first
 * index runs fastest. QD_EINPUT; QD_EUNSUPPORTED: element type.
 */
QD_CHECK enum qd_status qd_npy_view(const char *name, const void *data, size_t bytes, struct qd_tensor *out, bool *column_major);
/* The elements of `from`, whose first index runs fastest, in row-major order to `to` of from->bytes bytes. */
void qd_npy_transpose(const struct qd_tensor *from, void *to);

/* ---- what a file is, by its first bytes (kind.c) ---- */
/* X(id, how a message calls it) */
#define QD_FILE_KIND_LIST(X)                                                                                                       \
	X(UNKNOWN, "of no known format")                                                                                           \
	X(EMPTY, "empty")                                                                                                          \
	X(LFS_POINTER, "a Git-LFS pointer, not the file itself; fetch it with 'git lfs pull'")                                     \
	X(HTML, "a web page (HTML): the download did not give the file, it may need a login")                                      \
	X(JSON, "JSON text")                                                                                                       \
	X(PICKLE, "a pickle (torch.save), which can run code when it is read; convert it to safetensors")                          \
	X(ZIP, "a zip archive")                                                                                                    \
	X(GZIP, "a gzip archive")                                                                                                  \
	X(NPY, "a NumPy array")                                                                                                    \
	X(GGUF, "a GGUF file")                                                                                                     \
	X(HDF5, "an HDF5 file")                                                                                                    \
	X(ORT_ADAPTER, "an adapter file of ONNX Runtime")                                                                          \
	X(PNG, "a PNG image")                                                                                                      \
	X(JPEG, "a JPEG image")                                                                                                    \
	X(WEBP, "a WebP image")                                                                                                    \
	X(GIF, "a GIF image")                                                                                                      \
	X(BMP, "a BMP image")                                                                                                      \
	X(TIFF, "a TIFF image")
enum qd_file_kind {
#define QD_FILE_KIND_ENUM(id, text) QD_FILE_##id,
	QD_FILE_KIND_LIST(QD_FILE_KIND_ENUM)
#undef QD_FILE_KIND_ENUM
};
enum qd_file_kind qd_file_kind(const void *data, size_t bytes);
/* "a web page (HTML): ...", to stand behind "is". */
const char *qd_file_kind_text(enum qd_file_kind kind);

/* ---- named tensors, whatever holds them (tensor_set.c) ---- */
struct qd_tensor_set {
	char *path;
	struct qd_tensor *tensors;
	size_t n, cap;
	struct qd_strmap by_name;
	/* what holds the bytes */
	struct qd_safetensors safetensors;
	struct qd_mapping *mappings;
	size_t n_mappings, cap_mappings;
	void **unpacked;
	size_t n_unpacked, cap_unpacked;
	struct qd_arena arena;
};
/*
 * Opens a safetensors file, a NumPy archive (.npz, stored or deflated), one .npy or a folder of .npy, told apart by their bytes.
 * QD_EIO; QD_EINPUT and QD_EUNSUPPORTED name the file, the member or tensor, and what is wrong.
 */
QD_CHECK enum qd_status qd_tensor_set_open(struct qd_tensor_set *set, const char *path);
/* NULL when there is none. */
const struct qd_tensor *qd_tensor_set_find(const struct qd_tensor_set *set, const char *name);
/* The tensor, or QD_EINPUT "'PATH' has no tensor 'NAME'". */
QD_CHECK enum qd_status qd_tensor_set_get(const struct qd_tensor_set *set, const char *name, const struct qd_tensor **out);
/* A line for each tensor, with its hash: what identifies them. */
void qd_tensor_set_print(const struct qd_tensor_set *set, FILE *text);
void qd_tensor_set_release(struct qd_tensor_set *set);

/* ---- pictures (picture.c; png.c over libpng, jpeg.c over libjpeg-turbo, webp.c over libwebp) ---- */
/* 8-bit RGB; rows top to bottom, 3 bytes per pixel. */
struct qd_image {
	int width, height;
	uint8_t *rgb; /* owned */
};
QD_CHECK enum qd_status qd_image_new(struct qd_image *image, int width, int height);
/*
 * PNG, JPEG and WebP up to 16,384 x 16,384, told apart by their bytes, converted to 8-bit RGB over white; a JPEG is turned as its
 * Exif orientation says. QD_EINPUT names the file and what it is instead; QD_EUNSUPPORTED: CMYK, animations.
 */
QD_CHECK enum qd_status qd_image_read(const char *path, struct qd_image *image);
/* The same from memory. */
QD_CHECK enum qd_status qd_image_parse(const char *name, const void *data, size_t bytes, struct qd_image *image);
/* Writes a PNG. QD_EEXIST, QD_EIO. */
QD_CHECK enum qd_status qd_image_write(const char *path, const struct qd_image *image, bool force);
void qd_image_release(struct qd_image *image);

#endif
