/*
 * WebP in, through libwebp, which is called nowhere else. Transparency is laid over white; of an animation the first picture would
 * have to be chosen, so it is refused.
 */
#include "lib/io/picture.h"

#include <webp/decode.h>

#include <stdlib.h>

enum qd_status qd_webp_parse(const void *data, size_t bytes, struct qd_image *image)
{
	WebPBitstreamFeatures features;
	enum qd_status st;
	uint8_t *rgba = NULL;
	size_t pixels;

	if (WebPGetFeatures(data, bytes, &features) != VP8_STATUS_OK)
		return qd_fail(QD_EINPUT, "its header is damaged or cut short");
	if (features.has_animation)
		return qd_fail(QD_EUNSUPPORTED, "it is an animation, needs one picture");
	st = qd_image_new(image, features.width, features.height);
	if (st != QD_OK)
		return st;
	pixels = (size_t)features.width * (size_t)features.height;
	rgba = malloc(4 * pixels);
	if (rgba == NULL)
		return qd_fail(QD_ENOMEM, "out of memory (image of %d x %d pixels)", features.width, features.height);
	if (WebPDecodeRGBAInto(data, bytes, rgba, 4 * pixels, 4 * features.width) == NULL)
		st = qd_fail(QD_EINPUT, "its data is damaged or cut short");
	else
		qd_lay_over_white(rgba, pixels, image->rgb);
	free(rgba);
	return st;
}
