/*
 * What a file is, by its first bytes: so that one that was taken for something else is called by its name. Downloads that ask for a
 * login leave web pages and JSON under the name of a model; older checkpoints are pickles whatever they are called.
 *
 *   PNG     89 "PNG" 0d 0a 1a 0a      NumPy   93 "NUMPY"
 *   JPEG    ff d8 ff                  HDF5    89 "HDF" 0d 0a 1a 0a
 *   WebP    "RIFF" size "WEBP"        GGUF    "GGUF"
 *   GIF     "GIF8"                    gzip    1f 8b
 *   BMP     "BM"                      zip     "PK" 3 4, or 5 6
 *   TIFF    "II*" 0, or "MM" 0 "*"    pickle  80, protocol 2 to 5, or a zip whose first member is the "NAME/data.pkl" of torch.save
 *   ONNX Runtime's adapter: FlatBuffers with "TORT" at 4
 *   text    '<' HTML, '{' or '[' JSON, behind white space or a byte order mark
 */
#include "lib/io/io.h"

#include <string.h>
#include <strings.h>

static const char *const texts[] = {
#define QD_FILE_KIND_TEXT(id, text) text,
	QD_FILE_KIND_LIST(QD_FILE_KIND_TEXT)
#undef QD_FILE_KIND_TEXT
};

const char *qd_file_kind_text(enum qd_file_kind kind)
{
	return texts[kind];
}

static bool begins(const unsigned char *data, size_t bytes, const char *magic, size_t length)
{
	return bytes >= length && memcmp(data, magic, length) == 0;
}

/* The local header of a zip's first member: name length at 26, the name at 30. */
static bool is_torch_zip(const unsigned char *data, size_t bytes)
{
	static const char pickle[] = "/data.pkl";
	size_t length;

	if (!begins(data, bytes, "PK\3\4", 4) || bytes < 30)
		return false;
	length = data[26] | (size_t)data[27] << 8;
	return length >= sizeof(pickle) - 1 && length <= bytes - 30 &&
	       memcmp(data + 30 + length - (sizeof(pickle) - 1), pickle, sizeof(pickle) - 1) == 0;
}

static enum qd_file_kind kind_of_text(const unsigned char *data, size_t bytes)
{
	size_t i = begins(data, bytes, "\xef\xbb\xbf", 3) ? 3 : 0;

	while (i < bytes && (data[i] == ' ' || data[i] == '\t' || data[i] == '\r' || data[i] == '\n'))
		i++;
	if (i == bytes)
		return bytes == 0 ? QD_FILE_EMPTY : QD_FILE_UNKNOWN;
	if (data[i] == '<')
		return QD_FILE_HTML;
	return data[i] == '{' || data[i] == '[' ? QD_FILE_JSON : QD_FILE_UNKNOWN;
}

enum qd_file_kind qd_file_kind(const void *data, size_t bytes)
{
	static const struct {
		const char *magic;
		size_t length;
		enum qd_file_kind kind;
	} magics[] = {
		{ "\x89PNG\r\n\x1a\n", 8, QD_FILE_PNG },
		{ "\xff\xd8\xff", 3, QD_FILE_JPEG },
		{ "GIF8", 4, QD_FILE_GIF },
		{ "BM", 2, QD_FILE_BMP },
		{ "II*\0", 4, QD_FILE_TIFF },
		{ "MM\0*", 4, QD_FILE_TIFF },
		{ "\x93NUMPY", 6, QD_FILE_NPY },
		{ "PK\3\4", 4, QD_FILE_ZIP },
		{ "PK\5\6", 4, QD_FILE_ZIP },
		{ "\x1f\x8b", 2, QD_FILE_GZIP },
		{ "GGUF", 4, QD_FILE_GGUF },
		{ "\x89HDF\r\n\x1a\n", 8, QD_FILE_HDF5 },
	};
	const unsigned char *at = data;

	if (qd_is_lfs_pointer(data, bytes))
		return QD_FILE_LFS_POINTER;
	if (is_torch_zip(at, bytes) || (bytes >= 2 && at[0] == 0x80 && at[1] >= 2 && at[1] <= 5))
		return QD_FILE_PICKLE;
	if (begins(at, bytes, "RIFF", 4) && bytes >= 12 && memcmp(at + 8, "WEBP", 4) == 0)
		return QD_FILE_WEBP;
	if (bytes >= 8 && memcmp(at + 4, "TORT", 4) == 0)
		return QD_FILE_ORT_ADAPTER;
	for (size_t i = 0; i < QD_COUNT(magics); i++)
		if (begins(at, bytes, magics[i].magic, magics[i].length))
			return magics[i].kind;
	return kind_of_text(at, bytes);
}
