#pragma once

#include "dataset.hpp"
#include "file_tree.hpp"

namespace vmoe {

// Each format is a pair: whether the names in a tree are its own, and reading it. A reader fills
// `train`, `test` (if there), `classes` and `format`, and throws moxie::io_error for damaged data.

bool has_image_folder(const FileTree& tree);
Dataset read_image_folder(FileTree& tree);

bool has_cifar10(const FileTree& tree);
Dataset read_cifar10(FileTree& tree);

bool has_cifar100(const FileTree& tree);
Dataset read_cifar100(FileTree& tree);

bool has_idx(const FileTree& tree);
Dataset read_idx(FileTree& tree);

}  // namespace vmoe
