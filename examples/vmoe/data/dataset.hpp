#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "image_set.hpp"

namespace vmoe {

/// Images to train on and images to test on, of one size, with the names of their classes.
struct Dataset {
  ImageSet train;
  ImageSet test;
  std::vector<std::string> classes;
  std::string source;     ///< the path it came from
  std::string format;     ///< what was recognised there, "image folder (tar.xz)"
  bool held_out = false;  ///< the test images were taken out of the training images
};

struct LoadOptions {
  std::uint64_t seed = 0;  ///< chooses the images that are held out
  double held_out = 0.1;   ///< share of each class, where the data has no test images
};

/// Reads a data set into memory. What it is, is seen from what is there:
///  * images: `<split>/<class>/*.png|jpg|jpeg`, or `<class>/*` without a split. Splits are `train`
///  and
///    `test`, or `val`, `valid`, `validation` where there is no `test`. Classes are the folders,
///    sorted;
///  * CIFAR-10 and CIFAR-100 binary files (`data_batch_1.bin` ... `test_batch.bin`; `train.bin`
///    `test.bin`, fine labels), named by `batches.meta.txt` or `fine_label_names.txt` if there;
///  * MNIST-style IDX files (`train-images-idx3-ubyte` ...), plain or `.gz`;
/// each in a directory or inside a .tar, .tar.gz, .tar.xz or .zip, below any number of outer
/// folders. Without test images, a share of each class is held out. The result depends on the
/// contents and the options only: images are in the order of their paths.
/// @throws moxie::io_error for missing, unknown or damaged data: it names the file, what came and
/// what was expected; moxie::config_error for data or options that cannot be trained with.
Dataset load_dataset(const std::filesystem::path& path, const LoadOptions& options = {});

/// A 64-bit digest of shapes, pixels, labels and class names: a resumed run checks that it
/// continues on the data it began with.
std::uint64_t fingerprint(const Dataset& data);

}  // namespace vmoe
