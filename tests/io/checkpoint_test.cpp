#include "moxie/io/checkpoint.hpp"

#include <sys/resource.h>

#include <csignal>
#include <random>

#include "io/folder.hpp"
#include "moxie/optimizer/adam_w.hpp"
#include "moxie/optimizer/sgd.hpp"
#include "support/backends.hpp"

namespace checkpoint_test {

namespace {

using moxie::NamedState;
using moxie::test::Folder;
using moxie::test::read_file;
using moxie::test::write_file;

/// Shared and expert entries, and a buffer.
template <class B>
struct Model {
  B backend = moxie::test::make_backend<B>();
  moxie::Parameters<B> p{backend};

  explicit Model(std::uint64_t seed, bool other = false) {
    add("head/kernel", {3, other ? 5 : 4});
    add("head/bias", {4});
    add("Moe/kernel", {2, 3, 4}, true);
    if (other) add("Moe/bias", {2}, true);
    p.add({.name = other ? "Moe/loads" : "Moe/counts",
           .shape = {2},
           .initializer = moxie::Initializer::normal(1),
           .trained = false});
    p.initialize(seed);
    const auto values = all(p.values());
    backend.copy_from_host(p.gradients().data, values.data(), values.size() * sizeof(values[0]));
  }
  std::vector<typename B::Scalar> all(moxie::ConstVector<B> v) {
    std::vector<typename B::Scalar> host(static_cast<std::size_t>(v.size));
    backend.copy_to_host(host.data(), v.data, host.size() * sizeof(typename B::Scalar));
    return host;
  }
  template <class O>
  void train(const O& optimizer, typename O::template State<B>& state, int steps) {
    for (int t = 0; t < steps; ++t) optimizer.update(p, p.range(), state, 0.01);
  }

 private:
  void add(const char* name, std::vector<moxie::Index> shape, bool experts = false) {
    p.add({.name = name,
           .shape = std::move(shape),
           .initializer = moxie::Initializer::normal(1),
           .expert_axis = experts});
  }
};

std::string error_of(const auto& action) {
  try {
    action();
  } catch (const moxie::io_error& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE_TEMPLATE("A checkpoint lets a run go on bit for bit", B, MOXIE_TEST_BACKENDS) {
  const Folder folder;
  const moxie::AdamW adam;
  const moxie::Sgd sgd;
  Model<B> model(1);
  moxie::AdamW::State<B> one(adam, model.p);
  moxie::Sgd::State<B> two(sgd, model.p);
  model.train(adam, one, 3);
  model.train(sgd, two, 2);
  moxie::save_checkpoint(folder / "c", model.p, {{"config", "{\"width\": 3}"}},
                         NamedState{"first", one}, NamedState{"second", two});
  CHECK(folder.files() == 1);

  Model<B> loaded(2);
  moxie::AdamW::State<B> one_loaded(adam, loaded.p);
  moxie::Sgd::State<B> two_loaded(sgd, loaded.p);
  const auto version = loaded.p.version();
  const moxie::Metadata metadata = moxie::load_checkpoint(
      folder / "c", loaded.p, NamedState{"first", one_loaded}, NamedState{"second", two_loaded});
  CHECK(metadata == moxie::Metadata{{"config", "{\"width\": 3}"}});
  CHECK(moxie::read_checkpoint_metadata(folder / "c") == metadata);
  CHECK(loaded.p.version() > version);
  CHECK(loaded.all(loaded.p.values()) == model.all(model.p.values()));
  CHECK(loaded.all(loaded.p.buffers()) == model.all(model.p.buffers()));
  CHECK(one_loaded.step() == 3);
  CHECK(two_loaded.step() == 2);

  const auto g = model.all(model.p.gradients());
  loaded.backend.copy_from_host(loaded.p.gradients().data, g.data(), g.size() * sizeof(g[0]));
  model.train(adam, one, 3);
  model.train(sgd, two, 3);
  loaded.train(adam, one_loaded, 3);
  loaded.train(sgd, two_loaded, 3);
  CHECK(loaded.all(loaded.p.values()) == model.all(model.p.values()));
}

TEST_CASE("A checkpoint with optimizers serves without them") {
  using B = moxie::CpuBackend<float>;
  const Folder folder;
  Model<B> model(1), loaded(2);
  moxie::AdamW::State<B> state(moxie::AdamW{}, model.p);
  moxie::save_checkpoint(folder / "c", model.p, {}, NamedState{"optimizer", state});
  CHECK(moxie::load_checkpoint(folder / "c", loaded.p).empty());
  CHECK(loaded.all(loaded.p.values()) == model.all(model.p.values()));

  // In double, every float is itself; a file of doubles does not fit into floats.
  Model<moxie::CpuBackend<double>> wide(3);
  moxie::load_checkpoint(folder / "c", wide.p);
  const auto narrow = model.all(model.p.values());
  CHECK(wide.all(wide.p.values()) == std::vector<double>(narrow.begin(), narrow.end()));
  moxie::save_checkpoint(folder / "wide", wide.p, {});
  CHECK(error_of([&] {
          moxie::load_checkpoint(folder / "wide", loaded.p);
        }).find("'head/kernel' holds F64, expected F32") != std::string::npos);
}

TEST_CASE("Another model's checkpoint is refused with every difference, and changes nothing") {
  using B = moxie::CpuBackend<float>;
  const Folder folder;
  const std::string path = (folder / "c").string();
  Model<B> model(1), other(2, true);
  moxie::save_checkpoint(path, model.p, {});
  const auto values = other.all(other.p.values());
  const auto version = other.p.version();
  CHECK(error_of([&] { moxie::load_checkpoint(path, other.p); }) ==
        "moxie::load_checkpoint: '" + path +
            "' does not fit the model: 'head/kernel' is [3 x 4] in the file, expected [3 x 5]; "
            "'Moe/bias' [2] is missing; 'Moe/loads' [2] is missing; 'Moe/counts' [2] is "
            "unexpected");
  CHECK(other.all(other.p.values()) == values);
  CHECK(other.p.version() == version);

  // The state of another optimizer.
  moxie::Sgd::State<B> sgd(moxie::Sgd{}, model.p);
  moxie::AdamW::State<B> adam(moxie::AdamW{}, model.p);
  sgd.restore_step(5);
  moxie::save_checkpoint(path, model.p, {}, NamedState{"optimizer", sgd});
  const std::string error = error_of([&] {
    moxie::load_checkpoint(path, model.p, NamedState{"optimizer", adam});
  });
  CHECK(error.find("'@optimizer/first_moment/head/kernel' [3 x 4] is missing") !=
        std::string::npos);
  CHECK(error.find("and 1 more") != std::string::npos);
  CHECK(adam.step() == 0);
  CHECK(error_of([&] {
          moxie::load_checkpoint(path, model.p, NamedState{"other", sgd});
        }).find("'@other/step' [] is missing") != std::string::npos);
}

TEST_CASE("A damaged checkpoint is an io_error or the same checkpoint") {
  using B = moxie::CpuBackend<float>;
  const Folder folder;
  Model<B> model(1), loaded(2);
  moxie::Sgd::State<B> state(moxie::Sgd{}, model.p), loaded_state(moxie::Sgd{}, loaded.p);
  moxie::save_checkpoint(folder / "c", model.p, {{"seed", "1"}}, NamedState{"sgd", state});
  const std::string good = read_file(folder / "c");
  const auto values = model.all(model.p.values());
  const auto load = [&](const std::string& content) {
    write_file(folder / "bad", content);
    return error_of([&] {
      moxie::load_checkpoint(folder / "bad", loaded.p, NamedState{"sgd", loaded_state});
    });
  };
  CHECK(load(good).empty());
  for (std::size_t n = 0; n < good.size(); n += n < 40 ? 1 : 7)
    CHECK_FALSE(load(good.substr(0, n)).empty());
  int refused = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(static_cast<unsigned char>(bad[at]) ^ (1U << (at % 8)));
    if (!load(bad).empty()) {
      ++refused;
    } else {
      CHECK(loaded.all(loaded.p.values()) == values);
    }
  }
  CHECK(refused > static_cast<int>(good.size()) * 9 / 10);
  // The last byte belongs to a tensor: only the checksum can tell.
  std::string bad = good;
  bad.back() = static_cast<char>(bad.back() ^ 1);
  CHECK(load(bad).find("is damaged: its checksum is") != std::string::npos);
}

TEST_CASE("A checkpoint that cannot be written leaves the old one") {
  using B = moxie::CpuBackend<float>;
  const Folder folder;
  Model<B> model(1), next(2);
  moxie::save_checkpoint(folder / "c", model.p, {{"step", "1"}});
  const int found = moxie::test::in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const ::rlimit limit{300, 300};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    const std::string error = error_of([&] {
      moxie::save_checkpoint(folder / "c", next.p, {{"step", "2"}});
    });
    return error.find("File too large") != std::string::npos ? 0 : 1;
  });
  CHECK(found == 0);
  CHECK(folder.files() == 1);
  CHECK(moxie::load_checkpoint(folder / "c", next.p) == moxie::Metadata{{"step", "1"}});
  CHECK(next.all(next.p.values()) == model.all(model.p.values()));
  CHECK_FALSE(error_of([&] { moxie::save_checkpoint(folder / "no/c", next.p, {}); }).empty());
}

TEST_CASE("A checkpoint keeps its own keys and names to itself") {
  using B = moxie::CpuBackend<float>;
  const Folder folder;
  Model<B> model(1);
  moxie::Sgd::State<B> state(moxie::Sgd{}, model.p);
  CHECK_THROWS_AS(moxie::save_checkpoint(folder / "c", model.p, {{"moxie.x", "1"}}),
                  moxie::config_error);
  CHECK_THROWS_AS(moxie::save_checkpoint(folder / "c", model.p, {}, NamedState{"a/b", state}),
                  moxie::config_error);
  CHECK_THROWS_AS(moxie::save_checkpoint(folder / "c", model.p, {}, NamedState{"a", state},
                                         NamedState{"a", state}),
                  moxie::config_error);

  moxie::write_safetensors(folder / "future", {}, {{"moxie.checkpoint", "2"}});
  CHECK(error_of([&] { moxie::load_checkpoint(folder / "future", model.p); }) ==
        "moxie::load_checkpoint: '" + (folder / "future").string() +
            "' has version '2', expected '1'");
  CHECK(error_of([&] {
          static_cast<void>(moxie::read_checkpoint_metadata(folder / "future"));
        }).starts_with("moxie::read_checkpoint_metadata: '"));
}

}  // namespace checkpoint_test
