/*
 * For this folder only: what the readers of pictures share. Each gets the bytes of a whole file that begins as its format does, and
 * an empty image; after a failure the image may hold pixels, which the caller releases.
 */
#ifndef QUAD_LIB_IO_PICTURE_H
#define QUAD_LIB_IO_PICTURE_H

#include "lib/io/io.h"

/* Pixels of a side, at most. */
#define QD_MAX_IMAGE_SIDE 16384

QD_CHECK enum qd_status qd_png_parse(const void *data, size_t bytes, struct qd_image *image);
QD_CHECK enum qd_status qd_jpeg_parse(const void *data, size_t bytes, struct qd_image *image);
QD_CHECK enum qd_status qd_webp_parse(const void *data, size_t bytes, struct qd_image *image);

/* n pixels rgba [n,4] over white: rgb [n,3], out = (alpha c + (255 - alpha) 255) / 255, rounded. `rgb` may be `rgba`. */
void qd_lay_over_white(const uint8_t *rgba, size_t n, uint8_t *rgb);

#endif
