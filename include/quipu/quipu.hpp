/* quipu.hpp: the library for C++17: contexts, scopes and what a context owns are closed by
 * destructors, tensors have operators, failures of what is opened or touches files are exceptions.
 * Header only; each class is its C handle and converts to it, so that every function of quipu.h
 * takes it, and quipu.h is the manual.
 *
 *     qp::context ctx({.seed = 1});                        // C++20; {} in C++17
 *     qp::model   model = qp::model::load(ctx, "folder");  // throws qp::error
 *     {
 *         qp::scope  step(ctx);                            // tensors made from here on go with it
 *         qp::tensor y = qp_softmax(x * 2.0 + b, -1);      // ops never throw,
 *         ctx.check();                                     // this does
 *     }
 *
 * Objects go before their context: declare it first.
 */
#ifndef QUIPU_HPP
#define QUIPU_HPP

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quipu.h"

namespace qp {

/* ---- Errors ---------------------------------------------------------------------------------- */

class error : public std::runtime_error {
  public:
    error(qp_code code, const std::string &text) : std::runtime_error(text), code_(code) {}
    qp_code code() const noexcept { return code_; }

  private:
    qp_code code_;
};

/* Throws what the context has stored, and clears it. */
inline void check(qp_ctx *ctx) {
    if (!qp_failed(ctx)) return;
    error e(qp_error_code(ctx), qp_error(ctx));
    qp_clear(ctx);
    throw e;
}

/* ---- Context and scope -------------------------------------------------------------------------- */

class context {
  public:
    explicit context(qp_options options = {}) : ctx_(qp_open(options)) {
        if (!ctx_) throw std::bad_alloc();
    }
    operator qp_ctx *() const noexcept { return ctx_.get(); }
    bool     failed() const noexcept { return qp_failed(ctx_.get()); }
    void     check() const { qp::check(ctx_.get()); }
    qp_stats stats() const noexcept { return qp_stats_of(ctx_.get()); }
    void     cancel() const noexcept { qp_cancel(ctx_.get()); }

  private:
    struct close {
        void operator()(qp_ctx *ctx) const noexcept { qp_close(ctx); }
    };
    std::unique_ptr<qp_ctx, close> ctx_;
};

class tensor;

/* Tensors made while it lives are dropped with it. */
class scope {
  public:
    explicit scope(qp_ctx *ctx) noexcept : scope_(qp_enter(ctx)), open_(true) {}
    scope(const scope &) = delete;
    scope &operator=(const scope &) = delete;
    ~scope() { leave(); }
    void leave() noexcept {
        if (open_) qp_leave(scope_);
        open_ = false;
    }
    /* Leaves and hands y to the outer scope. */
    inline tensor give(tensor y) noexcept;

  private:
    qp_scope scope_;
    bool     open_;
};

/* No gradients are recorded while it lives. */
class no_grad {
  public:
    explicit no_grad(qp_ctx *ctx) noexcept : ctx_(ctx), before_(qp_no_grad(ctx, true)) {}
    no_grad(const no_grad &) = delete;
    no_grad &operator=(const no_grad &) = delete;
    ~no_grad() { qp_no_grad(ctx_, before_); }

  private:
    qp_ctx *ctx_;
    bool    before_;
};

/* ---- Tensors -------------------------------------------------------------------------------------- */

using shape = std::vector<std::int64_t>;

template <class T> struct dtype_of;
template <> struct dtype_of<float> { static constexpr qp_dtype value = QP_F32; };
template <> struct dtype_of<double> { static constexpr qp_dtype value = QP_F64; };
template <> struct dtype_of<std::int64_t> { static constexpr qp_dtype value = QP_I64; };
template <> struct dtype_of<std::int32_t> { static constexpr qp_dtype value = QP_I32; };
template <> struct dtype_of<std::uint8_t> { static constexpr qp_dtype value = QP_U8; };

/* A handle, copied freely; its scope owns what it stands for. */
class tensor {
  public:
    tensor() noexcept : t_(QP_NONE) {}
    tensor(qp_tensor t) noexcept : t_(t) {}
    operator qp_tensor() const noexcept { return t_; }

    static tensor zeros(qp_ctx *ctx, const shape &s, qp_dtype d = QP_F32) {
        return qp_zeros(ctx, d, static_cast<int>(s.size()), s.data());
    }
    static tensor full(qp_ctx *ctx, const shape &s, double value, qp_dtype d = QP_F32) {
        return qp_full(ctx, d, static_cast<int>(s.size()), s.data(), value);
    }
    static tensor randn(qp_ctx *ctx, const shape &s, qp_dtype d = QP_F32) {
        return qp_randn(ctx, d, static_cast<int>(s.size()), s.data());
    }
    /* A copy of the values, which must be as many as the shape holds. */
    template <class T> static tensor from(qp_ctx *ctx, const shape &s, const std::vector<T> &values) {
        std::int64_t count = 1;
        for (std::int64_t n : s) count *= n;
        if (count != static_cast<std::int64_t>(values.size()))
            throw error(QP_ERR_SHAPE, "from: the shape holds " + std::to_string(count) + " values, given are " +
                                          std::to_string(values.size()));
        return qp_from(ctx, dtype_of<T>::value, static_cast<int>(s.size()), s.data(), values.data());
    }

    bool         none() const noexcept { return qp_is_none(t_); }
    int          ndim() const noexcept { return qp_ndim(t_); }
    std::int64_t size(int axis) const noexcept { return qp_size(t_, axis); }
    std::int64_t count() const noexcept { return qp_count(t_); }
    qp_dtype     dtype() const noexcept { return qp_dtype_of(t_); }
    qp::shape    shape() const {
        qp::shape s(static_cast<std::size_t>(ndim()));
        for (int i = 0; i < ndim(); i++) s[static_cast<std::size_t>(i)] = size(i);
        return s;
    }

    /* Its elements as T, in C order; throws what the context has stored. */
    template <class T = float> std::vector<T> read() const {
        qp::check(t_.ctx);
        std::vector<T> out(static_cast<std::size_t>(count()));
        if (qp_read(t_, dtype_of<T>::value, out.data(), count()) != QP_OK) qp::check(t_.ctx);
        return out;
    }
    /* Its one element; throws what the context has stored. */
    double item() const {
        double x = qp_item(t_);
        qp::check(t_.ctx);
        return x;
    }

    tensor reshape(const qp::shape &s) const { return qp_reshape(t_, static_cast<int>(s.size()), s.data()); }
    tensor transpose(int axis0, int axis1) const { return qp_transpose(t_, axis0, axis1); }
    tensor slice(int axis, std::int64_t start, std::int64_t end, std::int64_t step = 1) const {
        return qp_slice(t_, axis, start, end, step);
    }
    tensor cast(qp_dtype d) const { return qp_cast(t_, d); }
    tensor sum() const { return qp_sum(t_, 0, nullptr, false); }
    tensor mean() const { return qp_mean(t_, 0, nullptr, false); }
    tensor matmul(tensor y) const { return qp_matmul(t_, y); }
    tensor detach() const { return qp_detach(t_); }
    tensor keep() const { return qp_keep(t_); } /* beyond its scope, until qp_drop */

    const tensor &require_grad(bool on = true) const {
        qp_require_grad(t_, on);
        return *this;
    }
    tensor grad() const { return qp_grad_of(t_); }
    void   backward() const { qp_backward(t_); }

  private:
    qp_tensor t_;
};

inline tensor scope::give(tensor y) noexcept {
    if (!open_) return y;
    open_ = false;
    return qp_return(scope_, y);
}

inline tensor operator+(tensor x, tensor y) { return qp_add(x, y); }
inline tensor operator-(tensor x, tensor y) { return qp_sub(x, y); }
inline tensor operator*(tensor x, tensor y) { return qp_mul(x, y); }
inline tensor operator/(tensor x, tensor y) { return qp_div(x, y); }
inline tensor operator-(tensor x) { return qp_neg(x); }
inline tensor operator+(tensor x, double s) { return qp_affine(x, 1, s); }
inline tensor operator+(double s, tensor x) { return qp_affine(x, 1, s); }
inline tensor operator-(tensor x, double s) { return qp_affine(x, 1, -s); }
inline tensor operator-(double s, tensor x) { return qp_affine(x, -1, s); }
inline tensor operator*(tensor x, double s) { return qp_affine(x, s, 0); }
inline tensor operator*(double s, tensor x) { return qp_affine(x, s, 0); }
inline tensor operator/(tensor x, double s) { return qp_affine(x, 1 / s, 0); }
inline tensor operator<(tensor x, tensor y) { return qp_lt(x, y); }
inline tensor operator<=(tensor x, tensor y) { return qp_le(x, y); }
inline tensor operator>(tensor x, tensor y) { return qp_gt(x, y); }
inline tensor operator>=(tensor x, tensor y) { return qp_ge(x, y); }

/* ---- What a context owns ----------------------------------------------------------------------------- */

/* A C object with its close function. `made` is what a function gave that says NULL on failure:
 * then what the context has stored is thrown. */
template <class T, void (*close_)(T *)> class owned {
  public:
    owned(qp_ctx *ctx, T *made) : thing_(made) {
        if (!made) check(ctx);
        if (!made) throw error(QP_ERR_STATE, "nothing was made");
    }
    operator T *() const noexcept { return thing_.get(); }
    T *get() const noexcept { return thing_.get(); }

  private:
    struct deleter {
        void operator()(T *thing) const noexcept { close_(thing); }
    };
    std::unique_ptr<T, deleter> thing_;
};

class tokenizer : public owned<qp_tokenizer, qp_tokenizer_close> {
  public:
    using owned::owned;
    static tokenizer bytes(qp_ctx *ctx) { return {ctx, qp_tokenizer_bytes(ctx)}; }
    static tokenizer load(qp_ctx *ctx, const std::string &path) {
        return {ctx, qp_tokenizer_load(ctx, path.c_str())};
    }
    static tokenizer train(qp_ctx *ctx, const std::vector<std::string> &files, qp_bpe_options options) {
        std::vector<const char *> paths;
        for (const std::string &f : files) paths.push_back(f.c_str());
        return {ctx, qp_tokenizer_train(ctx, static_cast<int>(paths.size()), paths.data(), options)};
    }
    std::vector<std::int32_t> encode(qp_ctx *ctx, std::string_view text, qp_encode_options options = {}) const {
        struct result : qp_ids {
            ~result() { qp_ids_free(this); }
        } ids{};
        if (qp_encode(ctx, get(), text.data(), text.size(), options, &ids) != QP_OK) check(ctx);
        return std::vector<std::int32_t>(ids.data, ids.data + ids.count);
    }
    std::string decode(qp_ctx *ctx, const std::vector<std::int32_t> &ids, bool skip_special = true) const {
        struct result : qp_text {
            ~result() { qp_text_free(this); }
        } text{};
        std::int64_t n = static_cast<std::int64_t>(ids.size());
        if (qp_decode(ctx, get(), ids.data(), n, skip_special, &text) != QP_OK) check(ctx);
        return std::string(text.data ? text.data : "", text.count);
    }
};

/* A few tensors with names. */
class record : public qp_record {
  public:
    record(qp_record r = {}) noexcept : qp_record(r) {}
    tensor operator[](const char *name) const noexcept { return qp_record_get(this, name); }
    record &set(const char *name, tensor t) {
        qp_record_set(this, name, t);
        return *this;
    }
};

class data : public owned<qp_data, qp_data_close> {
  public:
    using owned::owned;
    static data open(qp_ctx *ctx, const std::vector<std::string> &files, qp_data_options options) {
        std::vector<const char *> paths;
        for (const std::string &f : files) paths.push_back(f.c_str());
        return {ctx, qp_data_open(ctx, static_cast<int>(paths.size()), paths.data(), options)};
    }
    record next() const { return qp_data_next(get()); }
};

class model : public owned<qp_model, qp_model_close> {
  public:
    using owned::owned;
    static model load(qp_ctx *ctx, const std::string &path, qp_model_options options = {}) {
        return {ctx, qp_model_load(ctx, path.c_str(), options)};
    }
    static model from_config(qp_ctx *ctx, const std::string &json, const std::string &name = "config") {
        return {ctx, qp_model_new(ctx, name.c_str(), json.c_str())};
    }
    record        forward(const record &in) const { return qp_forward(get(), in); }
    tensor        logits(tensor ids) const { return qp_logits(get(), ids); }
    tensor        loss(tensor ids, tensor labels) const { return qp_model_loss(get(), ids, labels); }
    qp_state_dict params() const { return qp_model_params(get()); }
    qp_model_info info() const { return qp_model_info_of(get()); }
    void          save(const std::string &folder) const {
        if (qp_model_save(get(), folder.c_str()) != QP_OK) check(qp_model_ctx(get()));
    }
};

/* Closed with its context, not before. */
class optimizer {
  public:
    optimizer(qp_ctx *ctx, qp_optim *made) : optim_(made) {
        if (!made) check(ctx);
    }
    static optimizer adamw(const model &m, qp_adamw_options options = {}) {
        return {qp_model_ctx(m), qp_adamw(m.params(), options)};
    }
    static optimizer sgd(const model &m, qp_sgd_options options = {}) {
        return {qp_model_ctx(m), qp_sgd(m.params(), options)};
    }
    operator qp_optim *() const noexcept { return optim_; }
    void step() const { qp_step(optim_); }
    void set_lr(double lr) const { qp_optim_set_lr(optim_, lr); }

  private:
    qp_optim *optim_;
};

/* Carried state for generation. */
class session : public owned<qp_session, qp_session_close> {
  public:
    using owned::owned;
    session(const model &m, std::int64_t rows, std::int64_t positions, qp_session_options options = {})
        : owned(qp_model_ctx(m), qp_session_new(m, rows, positions, options)) {}

    tensor       feed(tensor ids, qp_feed how = {}) const { return qp_session_feed(get(), ids, how); }
    std::int64_t length(std::int64_t row = 0) const noexcept { return qp_session_length(get(), row); }
    void         truncate(std::int64_t row, std::int64_t length) const {
        if (qp_session_truncate(get(), row, length) != QP_OK) check(qp_session_ctx(get()));
    }

    /* qp_generate. on_text gets the text as it comes and returns false to stop; what it throws comes
     * out here. (options.on_text and options.user are not used.) */
    qp_generation generate(const tokenizer &t, const std::vector<std::int32_t> &ids, qp_generate_options options,
                           const std::function<bool(std::string_view)> &on_text) const {
        struct listener {
            const std::function<bool(std::string_view)> &call;
            std::exception_ptr                           thrown;
        } listen{on_text, nullptr};
        options.user = &listen;
        options.on_token = nullptr;
        options.on_text = [](void *user, const char *text, std::size_t bytes) {
            listener *l = static_cast<listener *>(user);
            try {
                return l->call(std::string_view(text, bytes));
            } catch (...) {
                l->thrown = std::current_exception();
                return false;
            }
        };
        qp_generation result = {};
        qp_status     status =
            qp_generate(get(), t, ids.data(), static_cast<std::int64_t>(ids.size()), options, &result);
        if (listen.thrown) std::rethrow_exception(listen.thrown);
        if (status != QP_OK) check(qp_session_ctx(get()));
        return result;
    }
};

} // namespace qp

#endif
