// Attention of each cell over the nine around it, and its gradient. A head has DEPTH channels; queries are
// read by row, keys and values by cell. Beyond a zero-padded border a key is 0, and still has a share.

// The shares of one row and head: the softmax of q k / sqrt(DEPTH).
template <int DEPTH, class Query, class Key>
DEVICE void shares_of(float (&shares)[9], const int* near, int lane, Query query, Key key) {
    float most = 0.0f, sum = 0.0f;
    for (int n = 0; n < 9; n++) {
        float product = 0.0f;
        if (near[n] >= 0) {
            for (int c = lane; c < DEPTH; c += TEAM) product += query(c) * key(near[n], c);
        }
        shares[n] = team_sum(product) * (1.0f / sqrtf((float)DEPTH));
        most = n == 0 || shares[n] > most ? shares[n] : most;
    }
    for (int n = 0; n < 9; n++) {
        shares[n] = expf(shares[n] - most);
        sum += shares[n];
    }
    for (int n = 0; n < 9; n++) shares[n] /= sum;
}

// store(row, channel, value) with the shares of values.
template <int DEPTH, int HEADS, class Query, class Key, class Value, class Store>
DEVICE void attention(const Rows& rows, const int* near, Query query, Key key, Value value, Store store) {
    each_team(rows.count * HEADS, [&](int task, int lane, bool is_real) {
        int row = task / HEADS, first = task % HEADS * DEPTH;
        const int* around = near + 9 * row;
        float shares[9];
        shares_of<DEPTH>(shares, around, lane, [&](int c) { return query(row, first + c); },
            [&](int cell, int c) { return key(cell, first + c); });
        for (int c = lane; is_real && c < DEPTH; c += TEAM) {
            float sum = 0.0f;
            for (int n = 0; n < 9; n++) {
                if (around[n] >= 0) sum += shares[n] * value(around[n], first + c);
            }
            store(row, first + c, sum);
        }
    });
}

// store(row, 9 head + n, share of neighbour n).
template <int DEPTH, int HEADS, class Query, class Key, class Store>
DEVICE void attention_shares(const Rows& rows, const int* near, Query query, Key key, Store store) {
    each_team(rows.count * HEADS, [&](int task, int lane, bool is_real) {
        int row = task / HEADS, head = task % HEADS;
        float shares[9];
        shares_of<DEPTH>(shares, near + 9 * row, lane, [&](int c) { return query(row, head * DEPTH + c); },
            [&](int cell, int c) { return key(cell, head * DEPTH + c); });
        for (int n = lane; is_real && n < 9; n += TEAM) {
            float share = shares[0];
            for (int other = 1; other < 9; other++) share = n == other ? shares[other] : share;
            store(row, 9 * head + n, share);
        }
    });
}

// store(row, 9 head + n, gradient of the product of query and key), given that of the result.
template <int DEPTH, int HEADS, class Share, class Value, class Gradient, class Store>
DEVICE void attention_gradients(
    const Rows& rows, const int* near, Share share, Value value, Gradient gradient, Store store) {
    each_team(rows.count * HEADS, [&](int task, int lane, bool is_real) {
        int row = task / HEADS, head = task % HEADS;
        const int* around = near + 9 * row;
        float of_shares[9], mean = 0.0f;
        for (int n = 0; n < 9; n++) {
            float product = 0.0f;
            if (around[n] >= 0) {
                for (int c = lane; c < DEPTH; c += TEAM) {
                    product += gradient(row, head * DEPTH + c) * value(around[n], head * DEPTH + c);
                }
            }
            of_shares[n] = team_sum(product);
            mean += share(row, 9 * head + n) * of_shares[n];
        }
        for (int n = 0; n < 9; n++) {
            float of_product = share(row, 9 * head + n) * (of_shares[n] - mean) * (1.0f / sqrtf((float)DEPTH));
            if (is_real && lane == n % TEAM) store(row, 9 * head + n, of_product);
        }
    });
}
