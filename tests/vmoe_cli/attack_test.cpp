// vmoe attack: accuracy of a checkpoint, its experts and routers under attack.
#include <doctest/doctest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "program.hpp"

using namespace cli;
using fixtures::Containing;
using fixtures::TemporaryFolder;
using nlohmann::json;

namespace {

json attacked(const TemporaryFolder& folder, const Arguments& arguments) {
  const auto file = folder / "figures.json";
  const Ending ending = run(Arguments{"attack", "--json", file} + arguments);
  REQUIRE_MESSAGE(ending.code == 0, ending.err);
  CHECK(ending.err.empty());
  CHECK(ending.out == Containing("SA "));
  json figures = json::parse(read_file(file));
  CHECK(figures.at("seconds").get<double>() > 0);
  figures.erase("seconds");
  return figures;
}
std::string refused(const Arguments& arguments) {
  const Ending ending = run(Arguments{"attack"} + arguments);
  CHECK(ending.code == 2);
  CHECK(ending.out.empty());
  return ending.err;
}

}  // namespace

TEST_CASE("attack counts what stands, whatever the batch and the threads") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data", 16, 7);
  REQUIRE(run(train(data, folder / "run") + Arguments{"--moe", "every-1"}).code == 0);
  const Arguments pgd{folder / "run", "--attack", "pgd",    "--eps", "32/255", "--steps", "7",
                      "--n",          "0",        "--seed", "3"};
  const json all = attacked(folder, pgd + Arguments{"--batch", "21", "--threads", "1"});
  CHECK(all.at("images") == 21);
  CHECK(all.at("attack").at("eps").get<double>() == doctest::Approx(32.0 / 255));
  const json eval = json::parse(run({"eval", folder / "run"}).out);
  CHECK(all.at("sa").get<double>() == doctest::Approx(100 * eval.at("accuracy").get<double>()));
  const auto broke = all.at("broken").size();
  CHECK(broke > 0);
  CHECK(all.at("ra").get<double>() ==
        doctest::Approx(all.at("sa").get<double>() - 100.0 * static_cast<double>(broke) / 21));
  CHECK(all.at("members") ==
        json::parse(R"([{"name": "pgd", "broke": )" + std::to_string(broke) + "}]"));
  const json& parts = all.at("parts");
  CHECK(parts.at("definition") == "isolated");
  CHECK(parts.at("attack").at("steps") == 7);
  for (const char* key : {"ra_e", "ra_r"}) {
    CHECK(parts.at(key).get<double>() >= 0);
    CHECK(parts.at(key) <= all.at("sa"));
  }
  CHECK(all.at("routing_change").at("images") == broke);
  REQUIRE(all.at("routing_change").at("layers").size() == 2);
  for (const json& layer : all.at("routing_change").at("layers"))
    for (const char* key : {"top1", "set", "iou"}) {
      CHECK(layer.at(key).get<double>() >= 0);
      CHECK(layer.at(key).get<double>() <= 1);
    }
  REQUIRE(all.at("margins").size() == 3);
  for (const json& m : all.at("margins")) {
    CHECK(m.at("images") == 7);
    CHECK(m.at("attacked") <= m.at("clean"));
  }
  CHECK(attacked(folder, pgd + Arguments{"--batch", "4", "--threads", "2"}) == all);
  const json transfer = attacked(folder, pgd + Arguments{"--definition", "transfer"});
  CHECK(transfer.at("parts").at("definition") == "transfer");
  CHECK(transfer.at("parts").at("router_loss") == "divergence");

  // An attacker who may do nothing does nothing.
  const json none = attacked(folder, {folder / "run", "--attack", "pgd", "--eps", "0", "--n", "0"});
  CHECK(none.at("attack").at("steps") == 50);  // none were asked for
  CHECK(none.at("broken").empty());
  CHECK(none.at("ra") == none.at("sa"));
  for (const char* key : {"ra_e", "ra_r"}) CHECK(none.at("parts").at(key) == none.at("sa"));
  const json l2 = attacked(folder, {folder / "run", "--attack", "pgd", "--eps", "2", "--norm", "l2",
                                    "--steps", "5", "--n", "9", "--restarts", "2"});
  CHECK(l2.at("images") == 9);
  CHECK(l2.at("attack").at("step") == 0.5);
  CHECK(l2.at("ra") <= l2.at("sa"));
}

TEST_CASE("attack has every attack and says what each member of the ensemble broke") {
  const TemporaryFolder folder;
  // Grey images: four equal classes are not needed, three have no targeted DLR
  const auto data = write_images(folder / "data", 16, 5, 1);
  REQUIRE(run(train(data, folder / "run") + Arguments{"--pooling", "token"}).code == 0);
  for (const char* name : {"apgd_ce", "apgd_dlr", "fab_t", "square", "vmoe_pgd"}) {
    const json figures = attacked(
        folder, {folder / "run", "--attack", name, "--eps", "24/255", "--steps", "6", "--n", "6"});
    CHECK(figures.at("members")[0].at("name") == name);
    CHECK(figures.at("attack").at("steps") == 6);
    CHECK(figures.at("attack").contains("step") == (std::string(name) == "vmoe_pgd"));
    CHECK(figures.at("parts").at("attack").at("steps") ==
          (figures.at("attack").at("name") == "vmoe_pgd" ? 6 : 50));
  }
  const json all = attacked(folder, {folder / "run", "--steps", "3", "--n", "6"});
  CHECK(all.at("attack").at("name") == "auto_attack");
  CHECK(all.at("attack").at("queries") == 150);  // of Square
  const json& members = all.at("members");
  REQUIRE(members.size() == 4);
  CHECK(members[0].at("name") == "apgd-ce");
  CHECK(members[1].at("name") == "apgd-dlr");
  CHECK(members[2].at("name") == "fab-t");
  CHECK(members[3].at("name") == "square");
  std::size_t sum = 0;
  for (const json& m : members) sum += m.at("broke").get<std::size_t>();
  CHECK(sum == all.at("broken").size());
  CHECK(refused({folder / "run", "--attack", "apgd_t"}) ==
        Containing("the model has 3 classes, this loss needs 4"));
}

TEST_CASE("attack says where RA-E and RA-R are not defined") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  const auto reason = [&](const Arguments& more) {
    const auto out = folder / ("run" + more.back());
    REQUIRE(run(train(data, out) + Arguments{"--epochs", "1", "--group-images", "1"} + more).code ==
            0);
    const json figures =
        attacked(folder, {out, "--attack", "pgd", "--steps", "2", "--n", "4", "--batch", "4"});
    CHECK(figures.at("parts").at("defined") == false);
    return figures.at("parts").at("reason").get<std::string>();
  };
  CHECK(reason({"--dense"}) == "the model has no MoE layers");
  CHECK(reason({"--router", "softmax_expert_choice"}) ==
        Containing("experts choose, tokens have no list of K choices"));
  CHECK(reason({"--router", "soft"}) == Containing("is soft"));
}

TEST_CASE("RA-E and RA-R are of the last image of an attack") {
  const TemporaryFolder folder;
  REQUIRE(run(train(write_images(folder / "data"), folder / "run") +
              Arguments{"--experts", "1", "--k", "1"})
              .code == 0);
  // With one expert there is one route: all parts of the model are the whole of it, and the same
  // images count in isolation and in transfer, however far each step goes.
  const Arguments wild{folder / "run", "--attack", "pgd", "--eps", "64/255",
                       "--steps",      "6",        "--n", "0",     "--step-size",
                       "100/255"};
  const json isolated = attacked(folder, wild).at("parts");
  const json transfer = attacked(folder, wild + Arguments{"--definition", "transfer"}).at("parts");
  CHECK(isolated.at("ra_e") == transfer.at("ra_e"));
}

TEST_CASE("attack shows its progress, as a bar on a terminal, and stops for Ctrl-C") {
  const TemporaryFolder folder;
  const auto data = write_images(folder / "data");
  REQUIRE(run(train(data, folder / "run")).code == 0);
  const Arguments few{"attack", folder / "run", "--attack", "pgd", "--n", "8", "--batch", "4"};
  const Ending bar = run(few, {.terminal = true, .columns = 120});
  CHECK(bar.code == 0);
  CHECK(bar.out == Containing("[########################] image 8/8  SA "));
  const Ending plain = run(few);
  CHECK(plain.out == Containing("image 8/8  SA "));
  for (const char control : {'\r', '\033', '#'})
    CHECK(plain.out.find(control) == std::string::npos);

  // An ensemble is long at a batch: it says what its members left
  const Ending ensemble = run({"attack", folder / "run", "--eps", "0.0001", "--steps", "60"},
                              {.terminal = true, .columns = 120});
  REQUIRE_MESSAGE(ensemble.code == 0, ensemble.err);
  CHECK(ensemble.out == Containing(" of 15 stand after fab-t  "));

  const auto json_file = folder / "never.json", page = folder / "never.html";
  Process endless({"attack", folder / "run", "--attack", "square", "--eps", "0.0001", "--steps",
                   "100000000", "--json", json_file, "--report", page});
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  REQUIRE(endless.running());
  endless.signal(SIGINT);
  const Ending ending = endless.end();
  CHECK(ending.code == 130);
  CHECK(ending.out == Containing("interrupted: image 0 of 15, no figures were written"));
  CHECK_FALSE(std::filesystem::exists(json_file));
  CHECK_FALSE(std::filesystem::exists(page));
}

TEST_CASE("figures are written whatever bytes the model's path has") {
  const TemporaryFolder folder;
  REQUIRE(
      run(train(write_images(folder / "data"), folder / "run") + Arguments{"--epochs", "1"}).code ==
      0);
  const auto odd = folder / "run-\xff";  // no UTF-8
  std::filesystem::rename(folder / "run", odd);
  const auto page = folder / "attack.html";
  const json figures =
      attacked(folder, {odd, "--attack", "pgd", "--steps", "1", "--n", "3", "--report", page});
  CHECK(figures.at("checkpoint").get<std::string>() == Containing("/run-\xef\xbf\xbd/"));
  CHECK(std::filesystem::exists(page));
  const Ending eval = run({"eval", odd});
  CHECK(eval.code == 0);
  CHECK(json::parse(eval.out).at("checkpoint") == figures.at("checkpoint"));
}

TEST_CASE("attack writes a page of the points that fell") {
  const TemporaryFolder folder;
  REQUIRE(run(train(write_images(folder / "data"), folder / "run")).code == 0);
  const auto page = folder / "attack.html";
  const Arguments strong{folder / "run", "--attack", "pgd", "--eps", "0.5", "--n", "9"};
  const json figures = attacked(folder, strong + Arguments{"--report", page, "--pictures", "2"});
  REQUIRE(figures.at("broken").size() >= 2);
  const std::string html = read_file(page);
  CHECK(html == Containing("<!doctype html>"));
  CHECK(html == Containing("Points that fell"));
  const std::string mark = "id=\"data\">";
  const auto begin = html.find(mark) + mark.size();
  const json data = json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  REQUIRE(data.at("images").size() == 2);
  for (const json& image : data.at("images")) {
    CHECK(image.at("linf").get<double>() <= 0.5 + 1e-6);
    CHECK(image.at("before").at("prediction") == image.at("label"));
    CHECK(image.at("after").at("prediction") != image.at("label"));
    CHECK(image.at("before").at("routes")[0].size() == 4);  // patches of 4 in images of 8
    CHECK(image.at("clean") != image.at("attacked"));
  }
}

TEST_CASE("attack refuses what makes no sense") {
  const TemporaryFolder folder;
  REQUIRE(
      run(train(write_images(folder / "data"), folder / "run") + Arguments{"--epochs", "1"}).code ==
      0);
  const std::string at = folder / "run";
  CHECK(refused({}) == Containing("vmoe attack: no path came, expected a checkpoint or a run's"));
  CHECK(refused({at, "--attack", "pdg"}) ==
        Containing("vmoe attack: there is no attack 'pdg' (did you mean 'pgd'?), expected one of: "
                   "pgd, apgd_ce"));
  for (const char* eps : {"8/0", "8/", "/255", "-1", "much", "nan", "1e999", "8 /255", "8/255/2"})
    CHECK(refused({at, "--eps=" + std::string(eps)}) ==
          Containing("--eps is '" + std::string(eps) +
                     "', expected a number at least 0, or a fraction such as 8/255"));
  for (const std::string flag : {"--eps", "--step-size"}) {
    CHECK(refused({at, "--attack", "pgd", flag, "8"}) ==
          Containing("vmoe: " + flag +
                     " is '8', expected at most 1, for pixels are from 0 to 1 "
                     "(a fraction such as 8/255)"));
    const Ending far = run(
        {"attack", at, "--attack", "pgd", "--norm", "l2", "--steps", "1", "--n", "2", flag, "8"});
    CHECK_MESSAGE(far.code == 0, far.err);
  }
  CHECK(refused({at, "--norm", "l1"}) == Containing("norm is 'l1', expected linf or l2"));
  CHECK(refused({at, "--norm", "l2"}) ==
        Containing("norm is 'l2', but auto_attack is for linf alone; expected --attack pgd"));
  CHECK(refused({at, "--restarts", "2"}) ==
        Containing("restarts is 2, but auto_attack has one start"));
  CHECK(refused({at, "--attack", "pgd", "--restarts", "0"}) ==
        Containing("moxie::Pgd: restarts is 0, expected >= 1"));
  CHECK(refused({at, "--attack", "square", "--step-size", "1/255"}) ==
        Containing("but square finds its own"));
  CHECK(refused({at, "--steps=-1"}) == Containing("steps is -1, expected at least 0"));
  CHECK(refused({at, "--steps", "1.5"}) == Containing("--steps is '1.5', expected a whole number"));
  CHECK(refused({at, "--definition", "both"}) ==
        Containing("definition is 'both', expected isolated or transfer"));
  CHECK(refused({at, "--n=-1"}) == Containing("images is -1, expected at least 0"));
  CHECK(refused({at, "--batch", "0"}) == Containing("batch is 0, expected at least 1"));
  CHECK(refused({at, "--pictures=-1"}) == Containing("pictures is -1, expected at least 0"));
  CHECK(refused({at, "--epps", "1"}) ==
        Containing("unknown argument '--epps' (did you mean '--eps'?)"));
  const Ending nowhere = run({"attack", at, "--json", folder / "no" / "such.json"});
  CHECK(nowhere.code == 1);
  const Ending missing = run({"attack", folder / "nothing"});
  CHECK(missing.code == 1);
}
