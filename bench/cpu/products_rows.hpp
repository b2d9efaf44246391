#pragma once

#include "bench_run.hpp"
#include "fma_peak.hpp"
#include "products_fixture.hpp"

namespace bench {

/// The products at `rows` rows an expert by all engines, and the peak, in turn.
class ProductsRow {
 public:
  ProductsRow(CpuRun& run, int threads, Index rows)
      : run_(run),
        on_(threads),
        threads_(threads),
        rows_(rows),
        fixture_({8, rows, 2, run.size(512, 32), run.size(2048, 64)}),
        own_(fixture_.problem(), on_.pool, OwnForm::packed),
        packing_(fixture_.problem(), on_.pool, OwnForm::packing),
        native_(make_native_products(fixture_.problem(), on_.pool)),
        eigen_(make_eigen_products(fixture_.problem(), on_.pool)),
        dnnl_(make_dnnl_products(fixture_.problem(), on_.pool)),
        peak_(on_.backend, run.size(5'000'000, 10'000)) {
    std::vector<ProductsEngine*> all = {&own_, &packing_, native_.get(), eigen_.get()};
    if (dnnl_) all.push_back(dnnl_.get());
    fixture_.check(all);
  }

  void operator()(bool backward) {
    struct Named {
      const char* name;
      ProductsEngine* engine;
    };
    std::vector<Candidate> all;
    const std::string prefix = "products/rows:" + std::to_string(rows_) +
                               (backward ? "/pass:backward" : "/pass:forward") + "/engine:";
    const double flops = fixture_.problem().forward_flops() * (backward ? 2 : 1);
    for (const auto& [name, engine] : {Named{"moxie", &own_},
                                       {"moxie_native", native_.get()},
                                       {"eigen", eigen_.get()},
                                       {"onednn", dnnl_.get()},
                                       {"moxie_packing", &packing_}}) {
      if (engine == nullptr) continue;
      all.push_back(
          {prefix + name,
           on_,
           {[engine = engine, backward] { backward ? engine->backward() : engine->forward(); }},
           flops});
    }
    all.push_back({prefix + "fma_peak", on_, {[this] { peak_(); }}, peak_.flops()});
    const auto times = run_.measure(run_.rounds(), all);

    const std::string shape =
        std::to_string(rows_) + " rows an expert, " + (backward ? "backward" : "forward");
    const bool many = rows_ == run_.size(1024, 64);
    const double few_limit = rows_ == run_.size(64, 16) ? 1.00 : 0.95;
    if (many) run_.report.add(bar_against_dnnl(shape, backward ? 0.92 : 1.00, times));
    if (!many && !backward) run_.report.add(bar_against_dnnl(shape, few_limit, times));
    run_.report.add(Bar{.what = "expert products without -march against -march=native, " + shape,
                        .threads = threads_,
                        .limit = 0.95,
                        .ratio = ratio_of(times[1], times[0])});
    if (many && !backward && threads_ == 1)
      run_.report.add(Bar{.what = "expert products against the FMA peak, " + shape,
                          .threads = threads_,
                          .limit = 0.92,
                          .ratio = flops / peak_.flops() * ratio_of(times.back(), times[0])});
  }

 private:
  using Times = std::vector<std::vector<double>>;

  /// The library's figure is from kept packed weights; a note says what packing in each product makes of it.
  Bar bar_against_dnnl(const std::string& shape, double limit, const Times& times) const {
    Bar bar{.what = "expert products against oneDNN's sgemm, " + shape,
            .threads = threads_,
            .limit = limit};
    if (!dnnl_) {
      bar.state = BarState::no_peer;
      bar.note = "configured without oneDNN";
      return bar;
    }
    char text[160];
    std::snprintf(text, sizeof text,
                  "weights already packed; packing in each product the ratio is %.3f",
                  ratio_of(times[3], times[times.size() - 2]));
    bar.ratio = ratio_of(times[3], times[0]);
    bar.note = text;
    return bar;
  }

  CpuRun& run_;
  Workers on_;
  int threads_;
  Index rows_;
  ProductsFixture fixture_;
  OwnProducts own_, packing_;
  std::unique_ptr<ProductsEngine> native_, eigen_, dnnl_;
  FmaPeak peak_;
};

inline void products_rows(CpuRun& run, Index rows) {
  for (const int threads : run.options.threads) {
    ProductsRow row(run, threads, rows);
    row(false);
    row(true);
  }
}
/// What packing costs a training step.
inline void packing_row(CpuRun& run) {
  for (const int threads : run.options.threads) {
    Workers on(threads);
    ProductsFixture fixture({8, run.size(64, 16), 2, run.size(512, 32), run.size(2048, 64)});
    OwnProducts packed(fixture.problem(), on.pool, OwnForm::packed);
    OwnProducts packing(fixture.problem(), on.pool, OwnForm::packing);
    const double flops = 3 * fixture.problem().forward_flops();
    const auto step = [](OwnProducts& products) {
      return Timed{[&products] {
        products.forward();
        products.backward();
      }};
    };
    const auto times =
        run.measure(run.rounds(), {{"products/step/weights:packing", on, step(packing), flops},
                                   {"products/step/weights:packed", on, step(packed), flops}});
    run.report.add(Bar{.what =
                           "products of a training step at 64 rows an expert, packing included, "
                           "against those from packed weights",
                       .threads = threads,
                       .direction = Direction::at_most,
                       .limit = 1.25,
                       .ratio = ratio_of(times[0], times[1])});
  }
}
inline void peak_row(CpuRun& run) {
  for (const int threads : run.options.threads) {
    Workers on(threads);
    const FmaPeak peak(on.backend, run.size(5'000'000, 10'000));
    run.measure(run.rounds(), {{"peak/loop:fma", on, {[&] { peak(); }}, peak.flops()}});
  }
}

}  // namespace bench
