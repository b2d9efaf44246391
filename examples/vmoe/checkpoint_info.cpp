#include "checkpoint_info.hpp"

#include <nlohmann/json.hpp>

namespace vmoe {

using nlohmann::json;

moxie::Metadata CheckpointInfo::to_metadata() const {
  const json values = {{"options", to_json(options)},
                       {"mean", normalization.mean},
                       {"std_dev", normalization.std_dev},
                       {"classes", classes},
                       {"image", {image.height, image.width, image.channels}},
                       {"step", step},
                       {"data_fingerprint", data_fingerprint},
                       {"train_seconds", train_seconds},
                       {"window", window}};
  return {{"vmoe", values.dump()}};
}

CheckpointInfo CheckpointInfo::from_metadata(const moxie::Metadata& metadata,
                                             const std::string& file) {
  const auto found = metadata.find("vmoe");
  if (found == metadata.end())
    moxie::throw_io("vmoe: '", file, "' was not written by vmoe: its metadata has no 'vmoe' entry");
  try {
    const json values = json::parse(found->second);
    CheckpointInfo info;
    apply_json(values.at("options"), file, info.options);
    values.at("mean").get_to(info.normalization.mean);
    values.at("std_dev").get_to(info.normalization.std_dev);
    values.at("classes").get_to(info.classes);
    const auto image = values.at("image").get<std::vector<Index>>();
    info.image = {image.at(0), image.at(1), image.at(2)};
    values.at("step").get_to(info.step);
    values.at("data_fingerprint").get_to(info.data_fingerprint);
    values.at("train_seconds").get_to(info.train_seconds);
    values.at("window").get_to(info.window);
    return info;
  } catch (const json::exception& e) {
    moxie::throw_io("vmoe: the metadata of '", file, "' is damaged: ", e.what());
  } catch (const std::out_of_range&) {
    moxie::throw_io("vmoe: the metadata of '", file, "' is damaged: image needs three sizes");
  }
}

CheckpointInfo CheckpointInfo::read(const std::filesystem::path& file) {
  return from_metadata(moxie::read_checkpoint_metadata(file), file.string());
}

}  // namespace vmoe
