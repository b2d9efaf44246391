#pragma once

#include "pixels.hpp"

/// Changes of colours, in place: they move nothing. Results are rounded down, as there. Source: the
/// operations of RandAugment in the released code of V-MoE and of Pairwise Router Consistency,
/// `autoaugment.py`; but the contrast turns about the image's mean grey, as in PIL, where that code
/// divides the number of pixels by 256.
namespace vmoe {

/// Each channel is stretched to 0..255; a channel of one value stays.
void auto_contrast(const Pixels& image);
/// Each channel's histogram becomes as flat as it can.
void equalize(const Pixels& image);
void invert(const Pixels& image);
/// Keeps the upper `bits` of each value, 0 to 8.
void posterize(const Pixels& image, int bits);
/// Inverts values from `threshold` on; 256 changes nothing.
void solarize(const Pixels& image, int threshold);
/// Adds `addition` to values below 128.
void solarize_add(const Pixels& image, int addition);
/// Away from the grey image by `factor`: 0 is grey, 1 changes nothing. Grey images stay.
void saturate(const Pixels& image, double factor);
/// Away from the mean grey.
void contrast(const Pixels& image, double factor);
/// Away from black.
void brighten(const Pixels& image, double factor);
/// Away from the image smoothed over 3x3 pixels; the border stays.
void sharpen(const Pixels& image, double factor);

}  // namespace vmoe
