// Fits a line with tensors and operators, then trains a small language model on a text file and
// writes with it.   cpp TEXT [STEPS]
#include <cstdlib>
#include <iostream>
#include <quipu/quipu.hpp>

// y = 3 x - 1 with noise: gradient descent by hand.
static void fit_line(qp_ctx *ctx) {
    qp::scope  all(ctx);
    qp::tensor x = qp::tensor::randn(ctx, {64, 1}), noise = qp::tensor::randn(ctx, {64, 1});
    qp::tensor y = 3.0 * x - 1.0 + 0.01 * noise;
    qp::tensor w = qp::tensor::zeros(ctx, {1}).require_grad(), b = qp::tensor::zeros(ctx, {1}).require_grad();
    for (int i = 0; i < 200; i++) {
        qp::scope  step(ctx);
        qp::tensor error = w * x + b - y;
        (error * error).mean().backward();
        qp::no_grad off(ctx);
        for (qp::tensor p : {w, b}) {
            if (qp_copy_to(p, p - 0.1 * p.grad()) != QP_OK) qp::check(ctx);
            qp_zero_grad(p);
        }
    }
    std::cout << "y = " << w.item() << " x + " << b.item() << "\n";
}

static const char config[] = R"({"model_type": "quipu", "vocab_size": 257, "hidden_size": 96,
    "num_hidden_layers": 2, "max_position_embeddings": 256, "tie_word_embeddings": true,
    "position": {"type": "rope"}, "mixer": {"type": "attention", "heads": 4},
    "ffn": {"type": "swiglu"}, "norm": {"type": "rms_norm"}})";

static void train(qp_ctx *ctx, const qp::model &model, const qp::tokenizer &tokenizer, const char *file,
                  int steps) {
    qp_data_options options{};
    options.batch = 8;
    options.length = 128;
    options.tokenizer = tokenizer;
    qp_adamw_options adamw{};
    adamw.lr = 3e-3;
    adamw.clip = 1;
    qp::data      data = qp::data::open(ctx, {file}, options);
    qp::optimizer optimizer = qp::optimizer::adamw(model, adamw);
    for (int i = 1; i <= steps; i++) {
        qp::scope  step(ctx);
        qp::record batch = data.next();
        qp::tensor loss = model.loss(batch["input_ids"], batch["labels"]);
        loss.backward();
        optimizer.step();
        if (i % 50 == 0 || i == steps) std::cout << "step " << i << " loss " << loss.item() << "\n";
    }
    qp::check(ctx);
}

int main(int argc, char **argv) {
    if (argc < 2) return std::cerr << "usage: cpp TEXT [STEPS]\n", 2;
    try {
        qp::context ctx;
        fit_line(ctx);
        qp::tokenizer tokenizer = qp::tokenizer::bytes(ctx);
        qp::model     model = qp::model::from_config(ctx, config);
        train(ctx, model, tokenizer, argv[1], argc > 2 ? std::atoi(argv[2]) : 200);

        qp::session         session(model, 1, 256);
        qp_generate_options options{};
        options.max_tokens = 80;
        options.sampling.temperature = 0.8;
        qp_generation done = session.generate(tokenizer, tokenizer.encode(ctx, "The "), options, [](auto text) {
            return static_cast<bool>(std::cout << text);
        });
        std::cout << "\n" << done.tokens << " tokens written\n";

        try { // what fails is an exception, and the context goes on
            qp::model::load(ctx, "/nowhere");
            return 1;
        } catch (const qp::error &e) {
            std::cout << "as it should: " << e.what() << "\n";
        }
    } catch (const std::exception &e) {
        std::cerr << e.what() << "\n";
        return 1;
    }
}
