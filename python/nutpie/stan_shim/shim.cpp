// The public C interface of BridgeStan, version 2.9, on top of Stan's model_base: an implementation of our own from its
// documentation. Compiles with Stan 2.35 and later. It is compiled once, and linked with the code that stanc makes of a
// program; the library that comes out can be used by every client of BridgeStan.
//
// Beyond that interface:
// - The return code says whether an error is a rejection, which has a code of its own, or fatal. Clients of BridgeStan
//   only ask whether it is zero.
// - nutpie_shim_version tells that the above holds, and nutpie_shapes gives the sizes of all variables, which names
//   alone do not tell for variables without elements.
#include <stan/io/chained_var_context.hpp>
#include <stan/io/empty_var_context.hpp>
#include <stan/io/json/json_data.hpp>
#include <stan/io/random_var_context.hpp>
#include <stan/math/rev/core.hpp>
#include <stan/model/model_base.hpp>
#include <stan/services/util/create_rng.hpp>
#include <stan/version.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

// In the code that stanc makes.
stan::model::model_base& new_model(stan::io::var_context& data, unsigned int seed, std::ostream* messages);

#define API extern "C" __attribute__((visibility("default")))

namespace {
using Vector = Eigen::VectorXd;
using Names = std::vector<std::string>;
using PrintCallback = void (*)(const char*, size_t);

constexpr int kOk = 0, kRejected = 1, kFatal = -1;

// Every thread that differentiates needs a tape of its own.
void ensure_tape() {
#ifdef STAN_THREADS
  static thread_local stan::math::ChainableStack tape;
#endif
}

// Gives the memory of the tape back at the end, also when Stan throws.
struct TapeScope {
  TapeScope() { ensure_tape(); }
  ~TapeScope() {
    if (stan::math::empty_nested()) stan::math::recover_memory();
  }
};

// Where print statements go: to the callback, or to the standard output.
struct PrintTarget {
  std::mutex lock;
  PrintCallback callback = nullptr;

  void write(const std::string& text) {
    std::lock_guard<std::mutex> guard(lock);
    if (callback != nullptr)
      callback(text.data(), text.size());
    else
      std::cout.write(text.data(), static_cast<std::streamsize>(text.size())).flush();
  }
};

PrintTarget print_target;

// What a thread's print statements write during a call, in one piece. There is one stream for each thread, since making one
// takes as long as a small gradient.
class PrintBuffer : public std::streambuf {
 public:
  void send() {
    if (text_.empty()) return;
    print_target.write(text_);
    text_.clear();
  }

 protected:
  std::streamsize xsputn(const char* text, std::streamsize n) override {
    text_.append(text, static_cast<size_t>(n));
    return n;
  }
  int_type overflow(int_type c) override {
    if (!traits_type::eq_int_type(c, traits_type::eof())) text_.push_back(traits_type::to_char_type(c));
    return traits_type::not_eof(c);
  }

 private:
  std::string text_;
};

struct Messages {
  struct Stream {
    PrintBuffer buffer;
    std::ostream out{&buffer};
  };
  static Stream& own() {
    static thread_local Stream stream;
    return stream;
  }
  Stream& stream = own();
  std::ostream* out() { return &stream.out; }
  ~Messages() { stream.buffer.send(); }
};

std::string joined(const Names& names) {
  std::string text;
  for (const auto& name : names) {
    if (!text.empty()) text += ',';
    text += name;
  }
  return text;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Values from JSON, or from a file of JSON.
std::unique_ptr<stan::io::var_context> read_values(const char* json) {
  if (json == nullptr || *json == '\0') return std::make_unique<stan::io::empty_var_context>();
  const std::string text(json);
  if (ends_with(text, ".json")) {
    std::ifstream file(text);
    if (!file) throw std::runtime_error("cannot read " + text);
    return std::make_unique<stan::json::json_data>(file);
  }
  std::istringstream stream(text);
  return std::make_unique<stan::json::json_data>(stream);
}

void report(char** error, const char* text) {
  if (error != nullptr) *error = strdup(text);
}

// Runs a function; what it throws becomes a message and a code.
template <typename F>
int guarded(char** error, F&& function) noexcept {
  try {
    function();
    return kOk;
  } catch (const std::domain_error& e) {
    report(error, e.what());
    return kRejected;
  } catch (const std::exception& e) {
    report(error, e.what());
  } catch (...) {
    report(error, "an exception that is not of the standard library");
  }
  return kFatal;
}

template <typename T, typename F>
T* guarded_new(char** error, F&& function) noexcept {
  T* made = nullptr;
  guarded(error, [&] { made = function(); });
  return made;
}
}  // namespace

struct bs_rng {
  stan::rng_t rng;
};

struct bs_model {
  std::unique_ptr<stan::model::model_base> model;
  std::string name, info, shapes, unconstrained_names;
  std::array<std::string, 4> names;  // by transformed parameters + 2 * generated quantities
  std::array<int, 4> sizes;
  int dim = 0;

  bs_model(const char* data, unsigned int seed) {
    ensure_tape();
    Messages messages;
    model.reset(&new_model(*read_values(data), seed, messages.out()));
    name = model->model_name();
    info = describe();
    shapes = describe_shapes();
    Names found;
    model->unconstrained_param_names(found, false, false);
    dim = static_cast<int>(found.size());
    unconstrained_names = joined(found);
    for (int which = 0; which < 4; ++which) {
      found.clear();
      model->constrained_param_names(found, which & 1, which & 2);
      sizes[which] = static_cast<int>(found.size());
      names[which] = joined(found);
    }
  }

  // Clients look for the text "STAN_THREADS=true".
  std::string describe() const {
    std::ostringstream out;
    out << "BridgeStan C interface 2.9.0, implemented by nutpie\nStan version: " << stan::MAJOR_VERSION << '.'
        << stan::MINOR_VERSION << '.' << stan::PATCH_VERSION << "\nSTAN_THREADS=";
#ifdef STAN_THREADS
    out << "true\n";
#else
    out << "false\n";
#endif
    for (const auto& line : model->model_compile_info()) out << '\t' << line << '\n';
    return out.str();
  }

  // A line for each variable: block (0 parameters, 1 transformed, 2 generated), name, sizes.
  std::string describe_shapes() const {
    std::ostringstream out;
    size_t done = 0;
    for (int block = 0; block < 3; ++block) {
      Names found;
      std::vector<std::vector<size_t>> sizes_of;
      model->get_param_names(found, block > 0, block > 1);
      model->get_dims(sizes_of, block > 0, block > 1);
      for (; done < found.size() && done < sizes_of.size(); ++done) {
        out << block << ' ' << found[done];
        for (size_t size : sizes_of[done]) out << ' ' << size;
        out << '\n';
      }
    }
    return out.str();
  }

  template <typename T>
  T log_density(Eigen::Matrix<T, -1, 1>& x, bool propto, bool jacobian) const {
    Messages messages;
    if (propto && jacobian) return model->log_prob_propto_jacobian(x, messages.out());
    if (propto) return model->log_prob_propto(x, messages.out());
    if (jacobian) return model->log_prob_jacobian(x, messages.out());
    return model->log_prob(x, messages.out());
  }

  // Value, and gradient unless that is null.
  double gradient(const double* point, double* grad, bool propto, bool jacobian) const {
    TapeScope scope;
    Eigen::Matrix<stan::math::var, -1, 1> x = Eigen::Map<const Vector>(point, dim);
    stan::math::var value = log_density(x, propto, jacobian);
    if (grad != nullptr) {
      stan::math::grad(value.vi_);
      Eigen::Map<Vector>(grad, dim) = x.adj();
    }
    return value.val();
  }

  double value(const double* point, bool propto, bool jacobian) const {
    // With numbers in place of variables of the tape, Stan would leave every term out as a constant.
    if (propto) return gradient(point, nullptr, propto, jacobian);
    TapeScope scope;
    Vector x = Eigen::Map<const Vector>(point, dim);
    return log_density(x, propto, jacobian);
  }

  void constrain(bool tp, bool gq, const double* point, double* values, stan::rng_t& rng) const {
    TapeScope scope;
    Messages messages;
    Vector x = Eigen::Map<const Vector>(point, dim), found;
    model->write_array(rng, x, found, tp, gq, messages.out());
    Eigen::Map<Vector>(values, found.size()) = found;
  }

  void unconstrain(const double* values, double* point) const {
    TapeScope scope;
    Messages messages;
    Vector given = Eigen::Map<const Vector>(values, sizes[0]), found;
    model->unconstrain_array(given, found, messages.out());
    Eigen::Map<Vector>(point, dim) = found;
  }

  void unconstrain(const stan::io::var_context& values, double* point) const {
    TapeScope scope;
    Messages messages;
    Vector found;
    model->transform_inits(values, found, messages.out());
    Eigen::Map<Vector>(point, dim) = found;
  }

  // Derivative of the gradient along v, by central differences of fourth order.
  Vector hessian_along(const Vector& x, const Vector& v, bool propto, bool jacobian) const {
    const double norm = v.norm();
    Vector sum = Vector::Zero(dim), grad(dim), moved(dim);
    if (norm == 0) return sum;
    const double step = 1e-4 * (1 + x.norm() / std::sqrt(std::max(dim, 1))) / norm;
    const double weights[] = {1, -8, 8, -1}, at[] = {-2, -1, 1, 2};
    for (int k = 0; k < 4; ++k) {
      moved = x + at[k] * step * v;
      gradient(moved.data(), grad.data(), propto, jacobian);
      sum += weights[k] / (12 * step) * grad;
    }
    return sum;
  }

  // A start with finite log density: given values, the others uniform on the unconstrained scale.
  void initialize(const char* json, stan::rng_t& rng, double radius, int tries, bool jacobian, double* point) const {
    const auto given = read_values(json);
    std::string reason = "the log density or its gradient is not finite";
    Vector grad(dim);
    for (int attempt = 0; attempt < std::max(tries, 1); ++attempt) {
      try {
        ensure_tape();
        stan::io::random_var_context random(*model, rng, radius, radius == 0);
        stan::io::chained_var_context both(*given, random);
        unconstrain(both, point);
        if (std::isfinite(gradient(point, grad.data(), false, jacobian)) && grad.allFinite()) return;
      } catch (const std::domain_error& e) {
        reason = e.what();
      }
    }
    throw std::runtime_error("no start found: " + reason);
  }
};

API const int bs_major_version = 2;
API const int bs_minor_version = 9;
API const int bs_patch_version = 0;
API const int nutpie_shim_version = 1;

API bs_model* bs_model_construct(const char* data, unsigned int seed, char** error) {
  return guarded_new<bs_model>(error, [&] { return new bs_model(data, seed); });
}

API void bs_model_destruct(bs_model* m) { delete m; }

API void bs_free_error_msg(char* text) { std::free(text); }

API const char* bs_name(const bs_model* m) { return m->name.c_str(); }

API const char* bs_model_info(const bs_model* m) { return m->info.c_str(); }

API const char* nutpie_shapes(const bs_model* m) { return m->shapes.c_str(); }

API const char* bs_param_names(const bs_model* m, bool tp, bool gq) { return m->names[tp + 2 * gq].c_str(); }

API const char* bs_param_unc_names(const bs_model* m) { return m->unconstrained_names.c_str(); }

API int bs_param_num(const bs_model* m, bool tp, bool gq) { return m->sizes[tp + 2 * gq]; }

API int bs_param_unc_num(const bs_model* m) { return m->dim; }

API int bs_param_constrain(const bs_model* m, bool tp, bool gq, const double* point, double* values, bs_rng* rng,
                           char** error) {
  return guarded(error, [&] {
    if (gq && rng == nullptr) throw std::invalid_argument("generated quantities need random numbers: rng is null");
    stan::rng_t unused(0);
    m->constrain(tp, gq, point, values, rng != nullptr ? rng->rng : unused);
  });
}

API int bs_param_unconstrain(const bs_model* m, const double* values, double* point, char** error) {
  return guarded(error, [&] { m->unconstrain(values, point); });
}

API int bs_param_unconstrain_json(const bs_model* m, const char* json, double* point, char** error) {
  return guarded(error, [&] { m->unconstrain(*read_values(json), point); });
}

API int bs_param_initialize(const bs_model* m, const char* json, bs_rng* rng, double radius, int tries, bool jacobian,
                            double* point, char** error) {
  return guarded(error, [&] { m->initialize(json, rng->rng, radius, tries, jacobian, point); });
}

API int bs_log_density(const bs_model* m, bool propto, bool jacobian, const double* point, double* value,
                       char** error) {
  return guarded(error, [&] { *value = m->value(point, propto, jacobian); });
}

API int bs_log_density_gradient(const bs_model* m, bool propto, bool jacobian, const double* point, double* value,
                                double* grad, char** error) {
  return guarded(error, [&] { *value = m->gradient(point, grad, propto, jacobian); });
}

API int bs_log_density_hessian(const bs_model* m, bool propto, bool jacobian, const double* point, double* value,
                               double* grad, double* hessian, char** error) {
  return guarded(error, [&] {
    *value = m->gradient(point, grad, propto, jacobian);
    const Vector x = Eigen::Map<const Vector>(point, m->dim);
    Eigen::MatrixXd found(m->dim, m->dim);
    for (int i = 0; i < m->dim; ++i)
      found.col(i) = m->hessian_along(x, Vector::Unit(m->dim, i), propto, jacobian);
    Eigen::Map<Eigen::MatrixXd>(hessian, m->dim, m->dim) = 0.5 * (found + found.transpose());
  });
}

API int bs_log_density_hessian_vector_product(const bs_model* m, bool propto, bool jacobian, const double* point,
                                              const double* vector, double* value, double* product, char** error) {
  return guarded(error, [&] {
    *value = m->gradient(point, nullptr, propto, jacobian);
    const Vector x = Eigen::Map<const Vector>(point, m->dim), v = Eigen::Map<const Vector>(vector, m->dim);
    Eigen::Map<Vector>(product, m->dim) = m->hessian_along(x, v, propto, jacobian);
  });
}

API bs_rng* bs_rng_construct(unsigned int seed, char** error) {
  return guarded_new<bs_rng>(error, [&] { return new bs_rng{stan::services::util::create_rng(seed, 0)}; });
}

API void bs_rng_destruct(bs_rng* rng) { delete rng; }

API int bs_set_print_callback(PrintCallback target, char** /* error */) {
  std::lock_guard<std::mutex> guard(print_target.lock);
  print_target.callback = target;
  return kOk;
}
